"""Promoters killed between any two calls, or racing: one version, the right alias, a true record.

A few kills by default; `make faults` kills at least twenty times in each step, at each call once.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.orchestration.execution import pending
from tasks.orchestration.moves import stage_tag
from tests.faults import promoters
from tests.unit.shop import Shop

ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
KILLS = 20
FEW = (0.0, 0.5, 0.95)  # where in a step a default run kills: shares of its calls
RACES = 50 if ALL else 6


@dataclass(frozen=True)
class Outcome:
    """What a step leaves, however often it was killed: kinds are the entries that it adds."""

    aliases: dict[str, int]
    numbers: list[int]
    kinds: list[str]
    before: list[dict[str, int]] = field(default_factory=list)


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
def prepared(
    reigned_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Step -> the store in which it begins, as it is, and as another that may be copied."""
    found = {}
    for step in promoters.STEPS:
        shop = Shop.open(tmp_path_factory.mktemp(step), reigned_store)
        params = promoters.APPROVING if step == "approval" else promoters.PARAMS
        for text in ("three", "four", "five") if step == "pruning" else ("three",):
            shop.release(text, params)
        found[step] = (shop.root, shop.database)
    return found


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
    assert pending(shop.registry, "adapter") is None
    assert shop.faults() == ()


def check_in_between(shop: Shop, reigning: set[int]) -> None:
    """Right after a kill: what people are served from is the old one or the new one."""
    assert shop.aliases()["production"] in reigning
    intent = pending(shop.registry, "adapter")
    begun = set() if intent is None else {intent.id}
    assert shop.ledger.audit(pending=begun).faults == ()


def places(step: str, template: tuple[Path, Path], folder: Path) -> list[int]:
    """The calls before which a step is killed."""
    low, high = 1, 128
    if not ALL:  # counting the calls of a step costs a run of it
        high = {"first_night": 60, "promotion": 40, "rollback": 40, "approval": 45, "pruning": 70}[
            step
        ]
        return [max(low, round(share * high)) for share in FEW]
    for call in range(low, high):
        shop = Shop.open(folder / f"count-{call}", template[1])
        if promoters.run_killed(shop.root, step, call) == 0:
            return list(range(1, call))
    raise AssertionError(f"{step} makes more than {high} calls")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", promoters.STEPS)
def test_a_step_killed_before_any_call_is_finished_by_the_next_one(
    step: str, prepared: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    entries = len(Shop(prepared[step][0]).kinds())
    reigning = {2, OUTCOMES[step].aliases["production"]}
    killed = 0
    for call in places(step, prepared[step], tmp_path):
        shop = copy(prepared[step], tmp_path / str(call))
        killed += promoters.run_killed(shop.root, step, call) != 0
        check_in_between(shop, reigning)
        promoters.STEPS[step](shop)
        check(shop, step, entries)
    print(f"{step}: {killed} kills")
    assert killed >= (KILLS if ALL else 2)
