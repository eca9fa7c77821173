"""How versions move, who may move them, and what is refused."""

import os
import re
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tasks.registry.aliases import Champion, find_champion
from tasks.registry.client import Registry
from tasks.registry.lock import PromotionLock
from tasks.registry.params import Params
from tasks.registry.promote import POLICY, check_champion, promote, roll_back
from tasks.registry.transactions import INTENT_TAG, carry_out, reconcile
from tasks.registry.versions import Version, model_name
from tasks.services import stores as patience
from tasks.services.stores import RetryingClient, Stores, call_with_retries
from tasks.stage.errors import ConfigError, DataError, GateError
from tasks.stage.outputs import MANIFEST, file_sha256, write_manifest
from tasks.stage.params import load_params, read_yaml, validate_params
from tests.builders.registry import PARAMS, Shop, policies

pytestmark = pytest.mark.slow

NAME = model_name("adapter")


def back(shop: Shop, number: int | None = None, said: str = "8 of 8 as recorded") -> str:
    leaving = shop.aliases().get("production")
    with shop.lock.held():
        entry = roll_back(
            shop.ledger, "adapter", number, by="ann", reason="it answers badly",
            leaving=leaving, downloads=shop.downloads, rehearse=lambda bundle: said,
        )  # fmt: skip
    return entry.reason


def by_hand(shop: Shop, number: int, *, despite_refusal: bool = False) -> None:
    promote(
        shop.ledger, "adapter", number, "production", by="ann", reason="because",
        despite_refusal=despite_refusal, downloads=shop.downloads,
    )  # fmt: skip


def test_before_the_first_night_there_is_nothing_to_promote(shop: Shop) -> None:
    assert shop.aliases("student") == {}
    assert find_champion(shop.aliases("student")) is None
    with pytest.raises(ConfigError, match="no version of the adapter is in staging"):
        shop.promote()
    with pytest.raises(ConfigError, match="was in production before"):
        back(shop)


def test_versions_move_from_staging_to_production_and_back(shop: Shop) -> None:
    shop.release("one")
    assert find_champion(shop.aliases()) == Champion("staging", 1)
    assert (shop.stage(1), shop.aliases()) == ("staging", {"candidate": 1, "staging": 1})
    shop.promote()
    shop.release("two")
    assert (shop.stage(1), shop.stage(2)) == ("production", "staging")
    shop.promote()
    assert shop.aliases() == {"candidate": 2, "previous": 1, "production": 2, "staging": 2}
    assert (shop.stage(1), shop.stage(2)) == ("archived", "production")
    assert back(shop) == "it answers badly (8 of 8 as recorded)"
    assert shop.aliases() == {"candidate": 2, "previous": 2, "production": 1, "staging": 2}
    assert (shop.stage(1), shop.stage(2)) == ("production", "staging")
    assert shop.kinds() == ["promoted", "moved", "promoted", "moved", "rolled_back"]
    assert shop.faults() == ()


def test_a_release_of_the_same_bundle_makes_no_version_and_decides_nothing(shop: Shop) -> None:
    shop.release("one")
    before = (shop.aliases(), shop.kinds())
    shop.release("one")
    assert (shop.aliases(), shop.kinds(), shop.registry.numbers("adapter")) == (*before, [1])


def test_promoting_what_is_in_production_decides_nothing(shop: Shop) -> None:
    shop.release("one")
    assert shop.promote() is not None
    assert shop.promote() is None
    assert shop.kinds() == ["promoted", "moved"]


@pytest.mark.parametrize(
    ("staging", "production", "aliases", "awaits"),
    [
        ("automatic", "automatic", {"candidate": 1, "staging": 1, "production": 1}, None),
        ("automatic", "approval", {"candidate": 1, "staging": 1}, "production"),
        ("automatic", "manual", {"candidate": 1, "staging": 1}, None),
        ("approval", "automatic", {"candidate": 1}, "staging"),
        ("manual", "manual", {"candidate": 1}, None),
    ],
)
def test_a_policy_says_how_far_a_version_goes_by_itself(
    staging: str, production: str, aliases: dict[str, int], awaits: str | None, shop: Shop
) -> None:
    entry = shop.judge(shop.register("one"), params=policies(staging, production))
    assert (shop.aliases(), entry.awaits, entry.by) == (aliases, awaits, POLICY)


def test_a_refused_version_stays_and_its_refusal_is_recorded(shop: Shop) -> None:
    version = shop.register("one")
    entry = shop.judge(version, promoted=False, params=policies("automatic", "automatic"))
    assert (entry.kind, entry.before, entry.after) == ("refused", *[{"candidate": 1}] * 2)
    assert entry.evidence["metrics"] == "a" * 64
    assert shop.registry.version("adapter", 1).tags["verdict"] == "refused"


def test_a_refused_or_unjudged_version_is_moved_by_hand_only_when_that_is_said(shop: Shop) -> None:
    shop.judge(shop.register("one"), promoted=False)
    shop.register("two")
    with pytest.raises(GateError, match="version 1 was refused by the rules"):
        by_hand(shop, 1)
    with pytest.raises(GateError, match="version 2 was never judged"):
        by_hand(shop, 2)
    assert "production" not in shop.aliases()
    by_hand(shop, 1, despite_refusal=True)
    assert shop.aliases()["production"] == 1


@pytest.mark.parametrize("reason", [" ", "x" * 901])
def test_a_reason_is_asked_for_and_is_a_sentence(reason: str, shop: Shop) -> None:
    with pytest.raises(ConfigError, match="expected a sentence of 3 to 900"):
        promote(
            shop.ledger, "adapter", 1, "production", by="ann", reason=reason,
            despite_refusal=False, downloads=shop.downloads,
        )  # fmt: skip


def test_a_version_that_does_not_exist_leaves_production_alone(reigned: Shop) -> None:
    before = reigned.aliases()
    for refused in (lambda: reigned.promote(7), lambda: back(reigned, 7)):
        with pytest.raises(ConfigError, match="has no version 7; found 1, 2"):
            refused()
    assert reigned.aliases() == before


@pytest.mark.parametrize("damage", ["changed", "missing", "rewritten"])
def test_a_bundle_that_is_not_as_it_was_registered_is_refused(damage: str, reigned: Shop) -> None:
    reigned.release("three")
    bundle = reigned.registry.bundle("adapter", 3, reigned.downloads)
    if damage == "missing":
        (bundle / "golden.json").unlink()
    else:
        (bundle / "settings.json").write_text("threE")
    if damage == "rewritten":
        write_manifest(bundle)
    before = reigned.aliases()
    expected = (
        "another manifest.json" if damage == "rewritten" else f"does not match its {MANIFEST}"
    )
    with pytest.raises(DataError, match=expected):
        reigned.promote(3)
    assert reigned.aliases() == before


def test_a_rollback_goes_only_to_what_was_in_production(reigned: Shop) -> None:
    reigned.release("three")
    with pytest.raises(ConfigError, match="version 3 was never in production"):
        back(reigned, 3)
    with pytest.raises(ConfigError, match="version 2 is in production now"):
        back(reigned, 2)
    reigned.promote(3)
    back(reigned, 1)
    assert reigned.aliases()["production"] == 1
    assert reigned.aliases()["previous"] == 3


def test_a_rollback_to_a_bundle_that_answers_otherwise_is_refused(reigned: Shop) -> None:

    def fail(bundle: Path) -> str:
        assert (bundle / "settings.json").read_text() == "one"
        raise GateError("5 of 8 golden prompts answered as recorded", "name another")

    with pytest.raises(GateError, match="5 of 8"):
        roll_back(
            reigned.ledger, "adapter", None, by="ann", reason="worse", leaving=2,
            downloads=reigned.downloads, rehearse=fail,
        )  # fmt: skip
    assert reigned.aliases()["production"] == 2


def test_a_rollback_that_another_came_before_is_not_made(reigned: Shop) -> None:
    with pytest.raises(
        ConfigError, match="named version 1 of the adapter when you asked, and names 2"
    ):
        roll_back(
            reigned.ledger, "adapter", None, by="ann", reason="worse", leaving=1,
            downloads=reigned.downloads, rehearse=lambda bundle: "",
        )  # fmt: skip


def foreign(shop: Shop) -> Version:
    """A version that somebody registered under our name."""
    shop.client.create_model_version(NAME, source=str(shop.root), run_id=None)
    return shop.registry.versions("adapter")[-1]


def test_a_foreign_version_under_our_name_is_told_once_and_never_promoted(shop: Shop) -> None:
    shop.release("one")
    stranger = foreign(shop)
    assert "was not made by Nightloom" in reconcile(shop.ledger, "adapter")[0]
    assert reconcile(shop.ledger, "adapter") == []
    with pytest.raises(GateError, match="version 2 was not made by Nightloom"):
        shop.promote(stranger.number)
    assert shop.kinds() == ["promoted", "found"]


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("verdict", "promoted", "say verdict promoted, and the ledger says refused"),
        ("verdict", "", "say verdict nothing, and the ledger says refused"),
        ("promotion_key", "f" * 64, "say promotion key ffff"),
    ],
)
def test_tags_that_somebody_edited_promote_nothing(
    tag: str, value: str, said: str, shop: Shop
) -> None:
    version = shop.register("one")
    shop.judge(version, promoted=False)
    shop.client.set_model_version_tag(NAME, "1", tag, value)
    for despite_refusal in (False, True):
        with pytest.raises(GateError, match=said):
            by_hand(shop, 1, despite_refusal=despite_refusal)
    assert "production" not in shop.aliases()


def test_a_bundle_that_its_tag_or_the_ledger_knows_otherwise_is_refused(shop: Shop) -> None:
    shop.release("one")
    bundle = shop.registry.bundle("adapter", 1, shop.downloads)
    shop.client.set_model_version_tag(NAME, "1", "bundle_manifest", "0" * 64)
    with pytest.raises(DataError, match="the tag bundle_manifest says 000000000000"):
        by_hand(shop, 1)
    with pytest.raises(DataError, match="version 1 has another manifest"):  # for who only asks it
        shop.registry.bundle("adapter", 1, shop.downloads)
    # Another bundle, and the tag to go with it: the ledger remembers the one that was judged.
    (bundle / "settings.json").write_text("another")
    write_manifest(bundle)
    manifest = file_sha256(bundle / MANIFEST)
    shop.client.set_model_version_tag(NAME, "1", "bundle_manifest", manifest)
    with pytest.raises(DataError, match="the ledger's entry 1 says"):
        by_hand(shop, 1)
    assert "production" not in shop.aliases()


def test_a_move_by_hand_names_the_verdict_that_it_rests_on_or_goes_against(shop: Shop) -> None:
    shop.release("one")
    verdict = shop.ledger.links()[-1]
    by_hand(shop, 1)
    moved = shop.ledger.links()[-1].entry
    assert (moved.kind, moved.evidence["verdict"]) == ("moved", verdict.sha256)
    assert "despite" not in moved.evidence
    shop.judge(shop.register("two"), promoted=False)
    refused = shop.ledger.links()[-1]
    by_hand(shop, 2, despite_refusal=True)
    moved = shop.ledger.links()[-1].entry
    assert (moved.evidence["verdict"], moved.evidence["despite"]) == (refused.sha256, "refused")


def test_a_foreign_version_that_reigns_stops_automatic_moves_and_is_put_right_by_hand(
    reigned: Shop,
) -> None:
    stranger = foreign(reigned)
    reigned.client.set_registered_model_alias(NAME, "production", str(stranger.number))
    notes = reconcile(reigned.ledger, "adapter")
    assert any("moved aliases of the adapter: production 2 -> 3" in note for note in notes)
    with pytest.raises(GateError, match="production names nightloom-adapter version 3"):
        check_champion(reigned.registry, "adapter")
    reigned.promote(2)
    assert (reigned.aliases()["production"], reigned.aliases()["previous"]) == (2, 1)
    check_champion(reigned.registry, "adapter")


def test_an_alias_that_somebody_moved_is_recorded_and_kept(reigned: Shop) -> None:
    reigned.client.set_registered_model_alias(NAME, "production", "1")
    notes = reconcile(reigned.ledger, "adapter")
    assert notes[0] == (
        "something else than Nightloom moved aliases of the adapter: production 2 -> 1"
    )
    assert (reigned.stage(1), reigned.stage(2)) == ("production", "staging")
    last = reigned.ledger.links()[-1].entry
    assert (last.kind, last.before["production"], last.after["production"]) == ("found", 2, 1)
    assert reconcile(reigned.ledger, "adapter") == []
    assert reigned.aliases()["production"] == 1


def test_an_alias_in_capitals_serves_nothing(shop: Shop) -> None:
    shop.release("one")
    shop.client.set_registered_model_alias(NAME, "Production", "1")
    assert reconcile(shop.ledger, "adapter") == []
    assert find_champion(shop.aliases()) == Champion("staging", 1)


def test_an_alias_moved_while_a_decision_is_carried_out_is_left_and_told(reigned: Shop) -> None:
    reigned.release("three")
    intent = reigned.intent(3)
    reigned.client.set_registered_model_alias(NAME, "production", "1")
    with pytest.raises(GateError, match="moved production -> 1, while this was being carried out"):
        carry_out(reigned.ledger, intent)
    last = reigned.ledger.links()[-1].entry
    assert (last.kind, last.after["production"]) == ("found", 1)
    assert reigned.aliases()["production"] == 1
    assert INTENT_TAG not in reigned.registry.model_tags("adapter")
    assert all("by its aliases it is" in note for note in reconcile(reigned.ledger, "adapter"))
    assert (reigned.stage(1), reigned.stage(3)) == ("production", "staging")


def test_an_alias_moved_right_after_ours_is_seen_when_it_is_read_back(
    reigned: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reigned.release("three")
    point = reigned.registry.point

    def overtaken(model: str, alias: str, number: int) -> None:
        point("adapter", alias, number)
        if alias == "production":
            reigned.client.set_registered_model_alias(NAME, "production", "1")

    monkeypatch.setattr(reigned.registry, "point", overtaken)
    with pytest.raises(GateError, match="production -> 1"):
        carry_out(reigned.ledger, reigned.intent(3))
    assert reigned.kinds()[-1] == "found"
    assert reigned.faults() == ()


def test_a_second_version_of_one_bundle_is_taken_away(shop: Shop) -> None:
    first = shop.register("one")
    shop.client.create_model_version(NAME, first.source, first.run_id, tags=first.tags)
    [note] = reconcile(shop.ledger, "adapter")
    assert "version 2 was a second one of the bundle of version 1" in note
    assert shop.registry.numbers("adapter") == [1]
    assert shop.registry.bundle("adapter", 1, shop.downloads).is_dir()
    assert shop.kinds() == ["pruned"]


def test_a_tag_that_does_not_fit_its_alias_is_put_right(shop: Shop) -> None:
    shop.release("one")
    shop.client.set_model_version_tag(NAME, "1", "stage", "production")
    [note] = reconcile(shop.ledger, "adapter")
    assert note.endswith("version 1 was tagged production; by its aliases it is staging")
    assert shop.stage(1) == "staging"


def test_an_intent_that_something_else_wrote_is_no_decision(shop: Shop) -> None:
    shop.release("one")
    shop.registry.set_model_tag("adapter", INTENT_TAG, "{}")
    with pytest.raises(ConfigError, match="is no decision"):
        reconcile(shop.ledger, "adapter")


def test_aliases_of_a_registry_older_than_the_ledger_begin_it(shop: Shop) -> None:
    shop.register("one")
    shop.client.set_registered_model_alias(NAME, "production", "1")
    [note, *_] = reconcile(shop.ledger, "adapter")
    assert note.startswith("the ledger begins with the adapter's aliases as they stand")
    assert shop.kinds() == ["found"]
    assert shop.faults() == ()


class AwayError(Exception):
    error_code = "TEMPORARILY_UNAVAILABLE"


class Flaky:
    """A store that is away for its first calls."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0

    def read(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise AwayError("the server is gone")
        return self.calls

    create_model_version = read


def test_a_store_that_is_away_for_a_while_is_asked_again() -> None:
    assert RetryingClient(Flaky(2), "http://store").read() == 3


def test_a_call_that_may_not_be_made_twice_is_not_made_again_blindly() -> None:
    with pytest.raises(AwayError):
        RetryingClient(Flaky(1), "http://store").create_model_version()


@pytest.mark.parametrize(
    "lost",
    [
        "create_model_version",
        "delete_registered_model_tag",
        "log_param",
        "set_model_version_tag",
        "set_registered_model_alias",
        "set_registered_model_tag",
    ],
)
def test_a_release_and_a_promotion_whose_answers_are_lost_come_out_as_any(
    lost: str, reigned: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, seen = getattr(MlflowClient, lost), set()

    def loses(client: MlflowClient, *given: object, **named: object) -> object:
        made, asked = call(client, *given, **named), repr((given, named))
        if asked not in seen:
            seen.add(asked)
            raise AwayError("the connection was reset")
        return made

    monkeypatch.setattr(MlflowClient, lost, loses)
    monkeypatch.setattr(patience, "_FIRST_WAIT", 0.001)
    reigned.release("three")
    reigned.promote(3)
    assert seen
    assert reigned.registry.numbers("adapter") == [1, 2, 3]
    assert reigned.aliases() == {"candidate": 3, "previous": 2, "production": 3, "staging": 3}
    assert reigned.kinds()[-2:] == ["promoted", "moved"]
    assert reigned.faults() == ()


@pytest.mark.parametrize(
    "where", ["nonsense://x", "postgresql+nothing://127.0.0.1/x", "sqlite:///{}/damaged.db"]
)
def test_a_store_that_cannot_be_opened_is_named_at_once(where: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_text("no database" * 100)
    where = where.format(tmp_path)
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=re.escape(f"{where} can't be used")):
        Registry(Stores(where, None)).aliases("adapter")
    assert time.monotonic() - begun < patience.RETRY_SECONDS / 3


def test_a_store_that_may_not_be_written_is_told_at_once(
    reigned: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder of the address where it is called
    locked = Registry(Stores(f"sqlite:///file:{reigned.database}?mode=ro&uri=true", None))
    assert locked.aliases("adapter")["production"] == 2
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=r"can't be used: .*attempt to write a readonly database"):
        locked.set_model_tag("adapter", "a", "b")
    assert time.monotonic() - begun < patience.RETRY_SECONDS / 3


def test_a_store_that_stays_away_is_named_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="http://store did not answer for 0 s: the server is"):
        call_with_retries(Flaky(99).read, "http://store", seconds=0.3)


def test_a_store_is_waited_for_as_long_as_the_bound_says_when_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = RetryingClient(Flaky(99), "http://store")
    monkeypatch.setattr(patience, "RETRY_SECONDS", 1.0)
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="did not answer for 1 s"):
        client.read()
    assert 0.7 <= time.monotonic() - begun < 10
    with pytest.raises(ConfigError, match="did not answer for 0 s"):
        RetryingClient(Flaky(99), "http://store", 0.2).read()


def test_a_lock_that_another_holds_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    late = PromotionLock(lock, shared=False, wait_seconds=0)
    with (
        PromotionLock(lock, shared=False, wait_seconds=1).held(),
        pytest.raises(ConfigError, match=f"within 0 s: process {os.getpid()} holds"),
        late.held(),
    ):
        pass
    with PromotionLock(lock, shared=False, wait_seconds=0).held():
        pass


def test_params_that_would_never_move_anything_are_refused() -> None:
    file = Path("params/release.yaml")
    assert load_params(Params, [file]).release == PARAMS
    content = read_yaml(file) | {"staging": "manual", "production": "automatic"}
    with pytest.raises(ConfigError, match="staging is manual and production automatic"):
        validate_params(Params, {"release": content}, [file])
