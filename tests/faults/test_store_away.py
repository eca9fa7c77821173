"""MLflow behind HTTP: a server that loses its answers or dies for a while changes no outcome."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.orchestration.tracking import Tracker
from tests.faults import promoters
from tests.faults.serving_store import Server, losing_answers
from tests.unit.shop import Shop

ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
AWAY_SECONDS = 60 if ALL else 4
RELEASED = {"candidate": 3, "previous": 1, "production": 2, "staging": 3}


@pytest.fixture
def shop(reigned_store: Path, tmp_path: Path) -> Shop:
    """A store in which version 1 was in production and 2 is."""
    return Shop.open(tmp_path / "shop", reigned_store)


@pytest.fixture
def server(shop: Shop) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(shop, port)
    server.start()
    yield server
    server.kill()


def check_released(shop: Shop, kinds: list[str], aliases: dict[str, int]) -> None:
    """One version more, by as many decisions as were made."""
    assert shop.registry.numbers("adapter") == [1, 2, 3]
    assert shop.aliases() == aliases
    assert shop.kinds()[-len(kinds) :] == kinds
    assert shop.faults() == ()


@pytest.mark.timeout(900)
def test_a_release_and_a_promotion_whose_answers_are_all_lost_once_come_out_as_any(
    shop: Shop, server: Server
) -> None:
    with losing_answers(server.address) as (address, lost):
        remote = Shop(shop.root, address)
        remote.release("three")
        remote.promote(3)
    assert {"model-versions/create", "runs/create", "registered-models/alias"} <= lost
    promoted = {"candidate": 3, "previous": 2, "production": 3, "staging": 3}
    check_released(shop, ["promoted", "moved"], promoted)
    assert Tracker(shop.stores).nights(9).count("three") == 1


@pytest.mark.timeout(900)
def test_versions_whose_deletions_lose_their_answers_are_gone_once(
    shop: Shop, server: Server
) -> None:
    for text in ("three", "four", "five"):
        shop.release(text)
    with losing_answers(server.address) as (address, lost):
        promoters.pruning(Shop(shop.root, address))
    assert {"model-versions/delete", "runs/delete-tag"} <= lost
    assert shop.registry.numbers("adapter") == [1, 2, 5]
    assert shop.kinds()[-2:] == ["pruned", "pruned"]
    assert shop.faults() == ()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("after_seconds", [0.05, 0.5, 0.9] if ALL else [0.5])
def test_a_server_that_dies_in_a_release_and_comes_back_is_waited_for(
    after_seconds: float, shop: Shop, server: Server
) -> None:
    remote = Shop(shop.root, server.address)
    begun = time.monotonic()
    child = promoters.start(promoters.first_night, remote)
    time.sleep(after_seconds)
    server.kill()
    time.sleep(AWAY_SECONDS)
    assert child.is_alive()
    server.start()
    child.join()
    assert child.exitcode == 0
    check_released(shop, ["promoted"], RELEASED)
    print(f"{AWAY_SECONDS} s away: released after {time.monotonic() - begun:.0f} s")
