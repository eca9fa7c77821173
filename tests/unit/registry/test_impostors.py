"""What MLflow's own commands, or a person in its pages, can pass off as Nightloom's."""

from pathlib import Path

import pytest

from tasks.registry.audit import bundle_to_serve
from tasks.registry.promote import promote, roll_back, rollback_target
from tasks.registry.transactions import reconcile
from tasks.registry.versions import BUNDLE_TAG, KEY_TAG, VERDICT_TAG
from tasks.stage.errors import ConfigError, DataError, GateError
from tasks.stage.outputs import MANIFEST
from tests.builders.registry import Shop

pytestmark = pytest.mark.slow

NAME = "nightloom-adapter"


def move(shop: Shop, alias: str, number: int) -> None:
    """What a person does in MLflow's pages."""
    shop.client.set_registered_model_alias(NAME, alias, str(number))


def back(shop: Shop, number: int | None) -> int:
    """The version in production after a rollback."""
    with shop.lock.held():
        reconcile(shop.ledger, "adapter")
        roll_back(
            shop.ledger, "adapter", number, by="ann", reason="because",
            leaving=shop.aliases()["production"], downloads=shop.downloads,
            rehearse=lambda _: "as recorded",
        )  # fmt: skip
    return shop.aliases()["production"]


def test_a_copy_of_a_versions_tags_over_somebodys_own_files_is_left_alone(
    reigned: Shop, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "work.txt").write_text("months of it")
    first = reigned.registry.version("adapter", 1)
    reigned.client.create_model_version(
        NAME, source=own.as_uri(), run_id=first.run_id, tags=first.tags
    )
    notes = reconcile(reigned.ledger, "adapter")
    assert any("version 3 was not made by Nightloom" in note for note in notes)
    assert (own / "work.txt").read_text() == "months of it"
    assert reigned.registry.numbers("adapter") == [1, 2, 3]
    with pytest.raises(GateError, match="was not made by Nightloom"):
        reigned.promote(3, despite_refusal=True)
    assert reigned.registry.find("adapter", first.key) == first
    assert reigned.kinds()[-1] == "found"


def test_a_version_that_mlflow_copied_stops_nothing(reigned: Shop) -> None:
    reigned.client.copy_model_version(f"models:/{NAME}/1", NAME)
    reigned.release("new")
    reigned.promote(4)
    assert reigned.registry.numbers("adapter") == [1, 2, 3, 4]
    assert reigned.aliases()["production"] == 4
    assert reigned.registry.bundle("adapter", 1, reigned.downloads).is_dir()


def test_what_stands_in_production_from_elsewhere_is_no_promotion_done(
    reigned: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    reigned.client.create_model_version(NAME, source=reigned.folder("other").as_uri())
    move(reigned, "production", 3)
    with pytest.raises(GateError, match="was not made by Nightloom"):
        reigned.promote(3)
    told = " ".join(caplog.messages)
    assert "something else than Nightloom moved aliases of the adapter: production 2 -> 3" in told


def test_a_refused_version_that_mlflow_put_in_production_is_no_way_back(reigned: Shop) -> None:
    reigned.judge(reigned.register("three"), promoted=False)
    move(reigned, "production", 3)
    reigned.promote(2)
    assert reigned.aliases()["previous"] == 3
    with pytest.raises(GateError, match="was refused by the rules"):
        back(reigned, 3)
    assert reigned.aliases()["production"] == 2


def test_the_way_back_from_a_strangers_version_is_the_last_of_ours(reigned: Shop) -> None:
    reigned.client.create_model_version(NAME, source=reigned.folder("other").as_uri())
    move(reigned, "production", 3)
    assert rollback_target(reigned.ledger, "adapter", None).number == 2
    assert back(reigned, None) == 2


@pytest.mark.parametrize("tag", [VERDICT_TAG, KEY_TAG, BUNDLE_TAG])
@pytest.mark.parametrize("value", ["refused", None])
def test_a_tag_that_was_edited_is_a_fault(tag: str, value: str | None, reigned: Shop) -> None:
    if value is None:
        reigned.client.delete_model_version_tag(NAME, "2", tag)
    else:
        reigned.client.set_model_version_tag(NAME, "2", tag, value)
    [fault] = reigned.faults()
    assert f"the tag {tag} of {NAME} version 2 says {value or 'nothing'}" in fault


def test_version_0_is_not_the_one_that_is_meant_without_a_number(reigned: Shop) -> None:
    reigned.release("three")
    with pytest.raises(ConfigError, match="has no version 0"):
        reigned.promote(0)
    assert reigned.aliases()["production"] == 2


@pytest.mark.parametrize(
    ("by", "reason", "said"),
    [
        ("root\n  9  adapter 7  promoted", "because", "the name .* holds"),
        ("ann\x1b[31m", "because", "the name .* holds"),
        ("ann", "fine \u202e enif", "the reason .* holds"),
        ("ann", "caf\udcff", "the reason .* holds"),
        (" ", "because", "expected 1 to 100"),
        ("a" * 101, "because", "expected 1 to 100"),
        ("ann", "    ", "0 characters"),
    ],
)
def test_words_that_would_read_as_something_else_in_the_ledger_are_refused(
    by: str, reason: str, said: str, reigned: Shop
) -> None:
    reigned.release("three")
    with pytest.raises(ConfigError, match=said):
        promote(
            reigned.ledger, "adapter", 3, "production", by=by, reason=reason,
            despite_refusal=False, downloads=reigned.downloads,
        )  # fmt: skip
    assert reigned.aliases()["production"] == 2


def test_a_reason_may_have_lines_and_any_script(reigned: Shop) -> None:
    reigned.release("three")
    promote(
        reigned.ledger, "adapter", 3, "production", by="김민지",
        reason="답변 20개를\n읽었다 👩\u200d💻", despite_refusal=False, downloads=reigned.downloads,
    )  # fmt: skip
    assert reigned.ledger.links()[-1].entry.by == "김민지"


def served_bundle(shop: Shop, number: int) -> Path:
    """The folder of the bundle by which people would be answered."""
    version = shop.registry.version("adapter", number)
    return bundle_to_serve(shop.registry, version, shop.downloads)


def test_nobody_is_answered_by_a_version_that_no_night_made(reigned: Shop) -> None:
    other = reigned.folder("other").as_uri()
    first = reigned.registry.version("adapter", 1)
    reigned.client.create_model_version(NAME, source=other)
    reigned.client.create_model_version(NAME, source=other, run_id=first.run_id, tags=first.tags)
    for number in (3, 4):
        with pytest.raises(DataError, match="was not made by Nightloom"):
            served_bundle(reigned, number)
    assert served_bundle(reigned, 1).is_dir()


def test_a_version_whose_tag_was_taken_away_is_checked_all_the_same(reigned: Shop) -> None:
    reigned.client.delete_model_version_tag(NAME, "2", BUNDLE_TAG)
    bundle = served_bundle(reigned, 2)
    with (bundle / MANIFEST).open("a") as manifest:
        manifest.write(" ")
    with pytest.raises(DataError, match=r"the night's run \w+ says"):
        served_bundle(reigned, 2)


def test_a_copy_by_mlflow_is_what_it_was_copied_from(reigned: Shop) -> None:
    reigned.client.copy_model_version(f"models:/{NAME}/1", NAME)
    assert served_bundle(reigned, 3) == served_bundle(reigned, 1)
