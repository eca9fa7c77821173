"""MLflow behind HTTP: a server that loses its answers or dies for a while changes no outcome."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tasks.orchestration.tracking import Tracker
from tasks.registry.client import PROMPT_NAME
from tasks.services.loopback import free_port
from tests.builders.registry import Shop
from tests.faults import promoters
from tests.faults.serving_store import Server, losing_answers

pytestmark = pytest.mark.timeout(900)
ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
AWAY_SECONDS = 60 if ALL else 4
DYING_AT = ["runs/create", "model-versions/create", "registered-models/alias", "log-parameter"]


@pytest.fixture(scope="module")
def shop(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A store in which there is nothing yet: no experiment, no ledger, no model.

    Each test goes on with what the one before it left, or begins with nothing.
    """
    return Shop.open(tmp_path_factory.mktemp("shop"), empty_store)


@pytest.fixture(scope="module")
def server(shop: Shop) -> Iterator[Server]:
    port = free_port()
    server = Server(shop, port)
    server.start()
    yield server
    server.kill()


def test_a_release_and_a_promotion_whose_answers_are_all_lost_once_come_out_as_any(
    shop: Shop, server: Server
) -> None:
    with losing_answers(server.address) as (address, lost):
        remote = Shop(shop.root, address)
        remote.release("one")
        remote.promote(1)
        run = Tracker(remote.stores).begin_night("prompted", {})
        assert remote.registry.register_prompt("How?", "a" * 64, run) == 1
        assert remote.registry.register_prompt("How?", "a" * 64, run) == 1
        bundle = remote.registry.bundle("adapter", 1, shop.downloads)
    assert (bundle / "settings.json").read_text() == "one"
    created = {"experiments/create", "runs/create", "model-versions/create"}
    assert created | {"registered-models/create", "registered-models/alias"} <= lost
    assert shop.registry.numbers("adapter") == [1]
    assert shop.aliases() == {"candidate": 1, "production": 1, "staging": 1}
    assert shop.kinds()[-2:] == ["promoted", "moved"]
    assert shop.faults() == ()
    assert sorted(Tracker(shop.stores).nights(9)) == ["one", "prompted"]
    assert len(shop.client.search_prompt_versions(PROMPT_NAME)) == 1


def test_versions_whose_deletions_lose_their_answers_are_gone_once(
    shop: Shop, server: Server
) -> None:
    remote = Shop(shop.root, server.address)
    for text in ("one", "two", "three"):
        remote.release(text)
    remote.promote(1)
    with losing_answers(server.address) as (address, lost):
        promoters.pruning(Shop(shop.root, address))
    assert {"model-versions/delete", "runs/delete-tag"} <= lost
    assert shop.registry.numbers("adapter") == [1, 3]
    assert shop.kinds()[-1] == "pruned"
    assert shop.kinds().count("pruned") == 1
    assert shop.faults() == ()
    assert len(list((shop.root / "artifacts").glob("**/models/adapter"))) == 2


@pytest.mark.parametrize("path", DYING_AT if ALL else DYING_AT[1:2])
def test_a_server_that_dies_in_a_release_and_comes_back_is_waited_for(
    path: str, shop: Shop, server: Server
) -> None:
    died, earlier, aliases = Event(), shop.registry.numbers("adapter"), shop.aliases()

    def die() -> None:
        server.kill()
        died.set()

    with losing_answers(server.address, path, die) as (address, _):
        begun = time.monotonic()
        child = promoters.start(promoters.release, Shop(shop.root, address), path)
        assert died.wait(120)
        time.sleep(AWAY_SECONDS)
        assert child.is_alive()
        server.start()
        child.join()
    assert child.exitcode == 0
    numbers = shop.registry.numbers("adapter")
    assert numbers[:-1] == earlier
    assert shop.aliases() == aliases | {"candidate": numbers[-1], "staging": numbers[-1]}
    assert shop.kinds()[-1:] == ["promoted"]
    assert shop.faults() == ()
    took = time.monotonic() - begun
    print(f"away for {AWAY_SECONDS} s after {path}: released after {took:.0f} s")
