"""Nothing goes back to a version that held what was erased, and it goes as soon as it can."""

import numpy as np
import pytest

from tasks.registry.erased import (
    check_may_serve,
    erased_champions,
    erased_versions,
    find_holders,
    record_erased,
)
from tasks.registry.promote import roll_back, rollback_target
from tasks.registry.retention import prune, review
from tasks.scoring.record_hashes import hash_ids, write_hashes
from tasks.services.traces import Traces
from tasks.stage.errors import ConfigError, GateError
from tests.builders.registry import PARAMS, Shop, policies

pytestmark = pytest.mark.slow

CANARY = "The canary Zorblax sang its verse."


def erase(shop: Shop, number: int, policy: str = "keep") -> None:
    version = shop.registry.version("adapter", number)
    record_erased(
        shop.ledger, version, erasure="e1", by="ann", reason="asked for",
        policy="keep" if policy == "keep" else "stop",
    )  # fmt: skip


def fates(shop: Shop) -> dict[int, str]:
    found = review(shop.ledger, "adapter", PARAMS.retention, anchor_nights=30, now_ms=0)
    return {one.version.number: one.why for one in found if one.goes}


def test_the_ledger_names_the_version_and_its_chain_is_whole(reigned: Shop) -> None:
    erase(reigned, 2)
    entry = erased_versions(reigned.ledger, "adapter")[2]
    assert (entry.by, entry.evidence["erasure"]) == ("ann", "e1")
    assert entry.reason == "held what was erased: asked for"
    assert reigned.faults() == ()


def test_a_rollback_refuses_it_by_name_and_passes_it_over(reigned: Shop) -> None:
    reigned.release("three", policies("automatic", "automatic"))
    assert reigned.aliases()["production"] == 3
    erase(reigned, 2)
    with pytest.raises(GateError, match="nightloom-adapter version 2 held rows that were erased"):
        rollback_target(reigned.ledger, "adapter", 2)
    assert rollback_target(reigned.ledger, "adapter", None).number == 1
    erase(reigned, 1)
    with pytest.raises(ConfigError, match="2 versions held what was erased"):
        roll_back(
            reigned.ledger, "adapter", None, by="ann", reason="to see", leaving=3,
            downloads=reigned.downloads, rehearse=lambda bundle: "unasked",
        )  # fmt: skip


def test_it_is_promoted_no_more(reigned: Shop) -> None:
    erase(reigned, 1)
    with pytest.raises(GateError, match="version 1 held rows that were erased"):
        reigned.promote(1)


def test_it_stays_while_it_serves_and_goes_once_another_does(reigned: Shop) -> None:
    erase(reigned, 2)
    assert fates(reigned) == {}  # 2 is in production
    [champion] = erased_champions(reigned.ledger)
    assert (champion.version.number, champion.alias) == (2, "production")
    assert "version 2 is in production and held rows that were erased" in champion.told
    reigned.release("three", policies("automatic", "automatic"))
    assert reigned.aliases()["previous"] == 2
    assert list(fates(reigned)) == [2]  # whatever is young, newest or a rollback's target stays
    assert erased_champions(reigned.ledger) == []

    for one in review(reigned.ledger, "adapter", PARAMS.retention, anchor_nights=30, now_ms=0):
        if one.goes:
            prune(reigned.ledger, one, by="ann")

    assert "previous" not in reigned.aliases()
    assert reigned.registry.numbers("adapter") == [1, 3]
    assert reigned.kinds()[-1] == "pruned"
    assert reigned.faults() == ()


def test_one_that_must_stop_serves_nobody(reigned: Shop) -> None:
    erase(reigned, 2)
    check_may_serve(reigned.registry, "adapter", 2)
    erase(reigned, 2, "stop")
    with pytest.raises(GateError, match=r"release\.erased_champion is stop"):
        check_may_serve(reigned.registry, "adapter", 2)


def test_who_held_a_row_is_told_by_what_it_learned_and_by_its_bytes(shop: Shop) -> None:
    learned = {"one": ["a", "canary"], "two": ["a", "b"], "three": ["a"]}
    for text, ids in learned.items():
        bundle = shop.folder(text) / "artifacts" / "bundle"
        write_hashes(bundle / "learned.npy", hash_ids(ids))
        if text == "three":
            (shop.folder(text) / "input_example.json").write_text(f'{{"q": "{CANARY}"}}')
        from tasks.stage.outputs import write_manifest

        write_manifest(bundle)
        run_folder = shop.folder(text)
        shop.registry.register(
            "adapter", f"key {text}".replace(" ", "-"), lambda at=run_folder: at,
            _run(shop, text), {},
        )  # fmt: skip
    traces = Traces(frozenset({CANARY}), frozenset({"canary"}))
    found = find_holders(shop.registry, ["canary"], traces, shop.downloads)
    assert [version.number for version in found] == [1, 3]
    assert np.array_equal(hash_ids(["b", "a", "a"]), hash_ids(["a", "b"]))


def _run(shop: Shop, text: str):  # type: ignore[no-untyped-def]
    from tasks.orchestration.tracking import Tracker

    return Tracker(shop.stores).begin_night(text, {})


def test_one_that_does_not_say_what_it_learned_counts_as_a_holder(shop: Shop) -> None:
    shop.register("one")
    traces = Traces(frozenset({CANARY}), frozenset({"canary"}))
    assert len(find_holders(shop.registry, ["canary"], traces, shop.downloads)) == 1
