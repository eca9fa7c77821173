"""What prune deletes, and what it never does."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tasks.registry.promote import recent_champions
from tasks.registry.retention import RetentionDecision, prune, review
from tasks.registry.versions import model_name
from tasks.stage.errors import ConfigError
from tests.builders.registry import PARAMS, Shop, policies

pytestmark = pytest.mark.slow

DAY_MS = 86_400_000


def fates(
    shop: Shop, *, days: int = 0, archived: int = 1, targets: int = 2, nights: int = 30
) -> dict[int, RetentionDecision]:
    retention = PARAMS.retention.model_copy(
        update={"archived": archived, "days": days, "rollback_targets": targets}
    )
    newest = shop.registry.versions("adapter")[-1].created_ms
    found = review(
        shop.ledger, "adapter", retention, anchor_nights=nights, now_ms=newest + 100 * DAY_MS
    )
    return {fate.version.number: fate for fate in found}


@pytest.fixture(scope="module")
def stocked(reigned_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Seven versions, only to be looked at: 2 is in production, 1 was, 7 is in staging."""
    shop = Shop.open(tmp_path_factory.mktemp("stocked"), reigned_store)
    for number in range(3, 8):
        shop.register(f"bundle {number}")
    asked = shop.registry.version("adapter", 4)
    shop.judge(asked, params=policies("automatic", "approval"))
    shop.judge(shop.registry.version("adapter", 7))
    shop.client.create_model_version(model_name("adapter"), source="elsewhere")
    return shop


def test_only_old_archived_versions_that_nothing_needs_go(stocked: Shop) -> None:
    found = {number: fate.why for number, fate in fates(stocked, archived=2).items()}
    assert found == {
        1: "the alias previous names it",
        2: "the alias production names it",
        3: "archived, 100 days old, beyond the newest 2",
        4: "a person is asked about it",
        5: "archived, 100 days old, beyond the newest 2",
        6: "one of the newest 2 archived",
        7: "the alias staging names it",
        8: "something else than Nightloom made it",
    }


def test_a_younger_version_stays(stocked: Shop) -> None:
    found = fates(stocked, days=101, archived=0)
    assert not any(fate.goes for fate in found.values())
    assert found[3].why == "younger than 101 days"


def test_a_version_that_a_rollback_may_need_stays(reigned: Shop) -> None:
    reigned.release("three")
    reigned.promote(3)
    assert fates(reigned, archived=0, targets=3)[1].why == "a rollback may need it"
    assert fates(reigned, archived=0, targets=2, nights=1)[1].goes


def test_a_version_that_may_be_the_anchor_of_a_coming_night_stays(reigned: Shop) -> None:
    reigned.release("three")
    reigned.promote(3)
    kept = fates(reigned, archived=0, targets=1, nights=2)[1]
    assert kept.why == "it was champion in the last 2 nights, and may be the anchor"
    assert not kept.goes
    assert fates(reigned, archived=0, targets=1, nights=1)[1].goes


def test_champions_of_the_last_nights_are_those_in_production_or_before_any_in_staging(
    shop: Shop,
) -> None:
    for text in ("one", "two", "three"):
        shop.release(text)
    shop.promote(3)
    shop.release("four")  # which comes to staging, beside the champion
    found = {
        nights: recent_champions(shop.ledger, "adapter", nights) for nights in (30, 4, 3, 2, 1)
    }
    assert found == {30: [3, 2, 1], 4: [3, 2, 1], 3: [3, 2, 1], 2: [3, 2], 1: [3]}
    assert recent_champions(shop.ledger, "student", 30) == []


def test_a_pruned_version_is_gone_with_its_artifacts_and_in_the_ledger(reigned: Shop) -> None:
    reigned.release("three")
    reigned.release("four")
    bundle = reigned.registry.bundle("adapter", 3, reigned.downloads)
    kept = reigned.registry.bundle("adapter", 4, reigned.downloads)
    with reigned.lock.held():
        entry = prune(reigned.ledger, fates(reigned, archived=0)[3], by="ann")
    assert (entry.kind, entry.version, entry.by) == ("pruned", 3, "ann")
    assert reigned.registry.numbers("adapter") == [1, 2, 4]
    assert not bundle.exists()
    assert kept.exists()
    assert reigned.faults() == ()
    reigned.release("three")  # the very bundle again is a new version, with artifacts of its own
    assert reigned.registry.numbers("adapter") == [1, 2, 4, 5]
    assert reigned.registry.bundle("adapter", 5, reigned.downloads).is_dir()


def test_files_outside_of_the_stores_own_folder_are_never_deleted(reigned: Shop) -> None:
    """Whatever the database says of them: another checkout's store may need them."""
    reigned.release("three")
    reigned.release("four")
    own = reigned.registry.version("adapter", 3)
    elsewhere = reigned.root / "elsewhere"
    (elsewhere / own.run_id / "artifacts" / "models" / "adapter").mkdir(parents=True)
    ways = [elsewhere.as_uri(), str(elsewhere), f"{reigned.stores.artifacts}/../elsewhere"]
    for place in ways:
        with closing(sqlite3.connect(reigned.database)) as connection:
            source = f"{place}/{own.run_id}/artifacts/models/adapter"
            connection.execute("UPDATE model_versions SET source = ? WHERE version = 3", (source,))
            connection.commit()
        with pytest.raises(ConfigError, match="nothing was deleted"):
            reigned.registry.delete(reigned.registry.version("adapter", 3))
    assert (elsewhere / own.run_id / "artifacts" / "models" / "adapter").exists()
    assert reigned.registry._uploads.of_version(own) is not None
    assert 3 in reigned.registry.numbers("adapter")


def test_escapes_in_a_folders_name_lead_to_no_other_folder(
    empty_store: Path, tmp_path: Path
) -> None:
    shop = Shop.open(tmp_path / "a%20b", empty_store)
    version = shop.register("one")
    shutil.copytree(shop.root, tmp_path / "a b")
    bundle = shop.registry.bundle("adapter", 1, shop.downloads)
    shop.registry.delete(version)
    assert not bundle.exists()
    assert (tmp_path / "a b" / bundle.relative_to(shop.root)).exists()
