"""Promoters killed between any two calls, or racing: one version, the right alias, a true record.

A few kills by default; `make faults` kills at least twenty times in each step, at each call once.
"""

import os
import random
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.registry.aliases import stage_tag
from tasks.registry.transactions import pending_intent
from tests.builders.registry import Shop
from tests.faults import promoters

ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
KILLS = 20
FEW = (0.4, 0.9)  # where in a step a default run kills: shares of its calls
RACES = 50 if ALL else 4


@dataclass(frozen=True)
class Outcome:
    """What a step leaves, however often it was killed: kinds are the entries that it adds."""

    aliases: dict[str, int]
    numbers: list[int]
    kinds: list[str]


OUTCOMES = {
    "first_night": Outcome(
        {"candidate": 4, "previous": 1, "production": 2, "staging": 4}, [1, 2, 3, 4], ["promoted"]
    ),
    "promotion": Outcome(
        {"candidate": 3, "previous": 2, "production": 3, "staging": 3}, [1, 2, 3], ["moved"]
    ),
    "rollback": Outcome(
        {"candidate": 3, "previous": 2, "production": 1, "staging": 3}, [1, 2, 3], ["rolled_back"]
    ),
    "approval": Outcome(
        {"candidate": 3, "previous": 2, "production": 3, "staging": 3}, [1, 2, 3], ["approved"]
    ),
    "pruning": Outcome(
        {"candidate": 5, "previous": 1, "production": 2, "staging": 5}, [1, 2, 5], ["pruned"] * 2
    ),
}


@pytest.fixture(scope="module")
def prepared(reigned_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shop]:
    """Step -> the store in which it begins, to be copied."""
    three = Shop.open(tmp_path_factory.mktemp("three"), reigned_store)
    three.release("three")
    approving = Shop.open(tmp_path_factory.mktemp("approval"), reigned_store)
    approving.release("three", promoters.APPROVING)
    five = Shop.open(tmp_path_factory.mktemp("pruning"), three.database)
    five.release("four")
    five.release("five")
    return dict.fromkeys(promoters.STEPS, three) | {"approval": approving, "pruning": five}


def check(shop: Shop, step: str, entries: int) -> None:
    """One version a bundle, the aliases where they belong, every decision once in the ledger."""
    expected = OUTCOMES[step]
    versions = shop.registry.versions("adapter")
    assert [version.number for version in versions] == expected.numbers
    assert len({version.key for version in versions}) == len(versions)
    aliases = shop.aliases()
    assert aliases == expected.aliases
    for version in versions:
        assert version.tags["stage"] == stage_tag(version.number, aliases)
        assert shop.registry.bundle("adapter", version.number, shop.downloads).is_dir()
    assert shop.kinds()[entries:] == expected.kinds
    assert pending_intent(shop.registry, "adapter") is None
    assert shop.faults() == ()


def check_in_between(shop: Shop, reigning: set[int]) -> None:
    """Right after a kill: what people are served from is the old one or the new one."""
    assert shop.aliases()["production"] in reigning
    assert shop.faults() == ()


def finish_and_check(shop: Shop, step: str, entries: int) -> None:
    """The step again, as somebody who saw it die would run it."""
    check_in_between(shop, {2, OUTCOMES[step].aliases["production"]})
    promoters.STEPS[step](shop)
    check(shop, step, entries)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", promoters.STEPS)
def test_a_step_killed_before_any_call_is_finished_when_it_is_run_again(
    step: str, prepared: dict[str, Shop], tmp_path: Path
) -> None:
    begun = prepared[step]
    entries = len(begun.kinds())
    whole = Shop.open(tmp_path / "whole", begun.database)
    calls = promoters.count_calls(whole.root, step)
    check(whole, step, entries)
    places = range(1, calls + 1) if ALL else [round(share * calls) for share in FEW]
    for call in places:
        shop = Shop.open(tmp_path / str(call), begun.database)
        assert promoters.run_killed(shop.root, step, call)
        finish_and_check(shop, step, entries)
    print(f"{step}: {len(places)} kills between {calls} calls")
    assert len(places) >= (KILLS if ALL else len(FEW))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", promoters.STEPS if ALL else ["first_night"])
def test_a_step_killed_at_any_time_is_finished_when_it_is_run_again(
    step: str, prepared: dict[str, Shop], tmp_path: Path
) -> None:
    begun = prepared[step]
    entries = len(begun.kinds())
    times = random.Random(17)
    killed = 0
    for number in range(KILLS if ALL else 2):
        shop = Shop.open(tmp_path / str(number), begun.database)
        killed += promoters.run_killed_after(shop.root, step, times.uniform(0.01, 0.6))
        finish_and_check(shop, step, entries)
    print(f"{step}: {killed} kills at any time")


@pytest.mark.timeout(3600)
def test_of_two_promoters_that_race_none_loses_a_decision(
    prepared: dict[str, Shop], tmp_path: Path
) -> None:
    shop = Shop.open(tmp_path / "shop", prepared["promotion"].database)
    entries = len(shop.kinds())
    loads = [[1, 2, 3] * RACES, [3, 1, 2] * RACES]
    told = promoters.race(promoters.promote_in_turn, shop.root, *(load[:RACES] for load in loads))
    links = shop.ledger.links()[entries:]
    assert sorted(link.entry.id for link in links) == sorted(told[0] + told[1])
    assert shop.faults() == ()
    assert shop.aliases() == links[-1].entry.after
    # None was decided on what had changed meanwhile.
    assert [link.entry.before for link in links[1:]] == [link.entry.after for link in links[:-1]]
    print(f"{len(links)} decisions of {2 * RACES} promotions in a race")


@pytest.mark.timeout(3600)
def test_of_two_releases_that_race_each_bundle_becomes_one_version(
    prepared: dict[str, Shop], tmp_path: Path
) -> None:
    shop = Shop.open(tmp_path / "shop", prepared["promotion"].database)
    entries = len(shop.kinds())
    texts = [f"race {number}" for number in range(RACES // 2)]
    for text in texts:
        shop.folder(text)
    promoters.race(promoters.release_in_turn, shop.root, texts, texts)
    versions = shop.registry.versions("adapter")
    assert len(versions) == len({version.key for version in versions}) == 3 + len(texts)
    assert shop.kinds()[entries:] == ["promoted"] * len(texts)
    assert shop.aliases()["staging"] == shop.aliases()["candidate"] == 3 + len(texts)
    assert shop.faults() == ()


@pytest.mark.skipif(not ALL, reason="it waits for a minute: make faults")
@pytest.mark.timeout(600)
def test_a_registry_that_is_away_for_a_minute_is_waited_for(
    prepared: dict[str, Shop], tmp_path: Path
) -> None:
    begun = prepared["promotion"]
    entries = len(begun.kinds())
    shop = Shop.open(tmp_path / "shop", begun.database)
    with closing(sqlite3.connect(shop.database)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        child = promoters.start(promoters.promotion, Shop(shop.root))
        time.sleep(60)
        assert child.is_alive()
        connection.rollback()
    child.join()
    assert child.exitcode == 0
    check(shop, "promotion", entries)
