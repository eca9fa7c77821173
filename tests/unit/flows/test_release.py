"""A release decides by the champion of that moment, not by the one when it looked first."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import release
from flows.promoter import Promoter
from flows.release import _current, _Decided, _ReleaseContext, _standing
from flows.workspace import WorkspacePaths
from tasks.orchestration.release import VerdictKey, VersionVerdict
from tasks.promotion.evidence import ChampionFiles, EvidenceFiles
from tasks.records.schema import ServedModel
from tasks.registry.approval import expire_old
from tasks.registry.ledger import Ledger
from tasks.registry.transactions import INTENT_TAG, reconcile
from tasks.registry.versions import Version
from tasks.stage.errors import DataError
from tasks.stage.outputs import MANIFEST
from tasks.stage.params import read_yaml
from tests.builders.registry import PARAMS, Shop

pytestmark = pytest.mark.slow


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The versions that evidence was gathered on once more; each gets none worth reading."""
    numbers: list[int] = []

    def gather(_: _ReleaseContext, version: Version) -> EvidenceFiles:
        numbers.append(version.number)
        return evidence(None)

    monkeypatch.setattr(release, "_evidence", gather)
    return numbers


def evidence(champion: str | None) -> EvidenceFiles:
    folder = Path("report")
    held = (
        None if champion is None else ChampionFiles(champion, folder, "adapter", folder, "adapter")
    )
    return EvidenceFiles(folder, folder, folder, folder, folder, "0" * 64, held, folder)


def context(shop: Shop) -> _ReleaseContext:
    anything: Any = None
    return _ReleaseContext(anything, anything, anything, shop.registry, anything)


def test_a_version_that_does_not_answer_when_it_is_served_is_named_by_no_alias(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = shop.register("one")
    shop.client.delete_registered_model_alias("nightloom-adapter", "candidate")

    def unanswered(*_: Any) -> Any:
        raise DataError("it does not answer", "look")

    monkeypatch.setattr(release, "_register", lambda *_: ([version], []))
    monkeypatch.setattr(release, "_gather", unanswered)
    monkeypatch.setattr(release, "verified", lambda bundle: bundle)
    for name in ("make_promoter", "Tracker", "find_stores"):
        monkeypatch.setattr(release, name, lambda *_: None)
    workspace: Any = Workspace(tmp_path)
    (tmp_path / MANIFEST).touch()
    with pytest.raises(DataError, match="it does not answer"):
        release.release.fn(workspace, None, None, shop.registry)
    assert shop.aliases() == {}


def test_a_verdict_of_before_stands_unless_somebody_asks_for_it_again(shop: Shop) -> None:
    version = shop.register("one")
    key = VerdictKey("reports", "rules", "base")
    shop.registry.tag(version, {"verdict": "refused", "judged_by": key.text()})
    version = shop.registry.version("adapter", version.number)
    made = context(shop)
    standing = _standing(made, version, key)
    assert standing is not None
    assert (standing.verdict, standing.stands) == ("unchanged", "refused")
    assert _standing(replace(made, again=True), version, key) is None


@pytest.mark.parametrize(
    ("verdict", "after", "awaits", "headline"),
    [
        ("promoted", {"staging": 2}, None, "promoted to staging"),
        (
            "promoted",
            {"staging": 2},
            "production",
            "promoted to staging, awaits approval for production",
        ),
        ("promoted", {"staging": 2, "production": 2}, None, "promoted to production"),
        ("promoted", {"staging": 1}, "staging", "passed, awaits approval for staging"),
        ("refused", {"staging": 1}, None, "refused (size, stops)"),
        ("unchanged", None, None, "unchanged (refused before: size, stops)"),
    ],
)
def test_a_headline_says_what_became_of_a_version(
    verdict: Any, after: dict[str, int] | None, awaits: Any, headline: str, shop: Shop
) -> None:
    version = shop.register("one")
    found = VersionVerdict(
        version=version,
        verdict=verdict,
        stands="promoted" if verdict == "promoted" else "refused",
        refused_by=() if verdict == "promoted" else ("size", "stops"),
        reasons=("why",),
        passed=("what",),
        decision=None,
        key=None,
        evidence={},
    )
    entry = None
    if after is not None:
        made = shop.judge(version)
        entry = made.model_copy(update={"version": 2, "after": after, "awaits": awaits})
    told = _Decided(found, entry).told()
    assert (told.verdict, told.headline) == (verdict, headline)
    assert (told.reasons, told.passed) == (["why"], ["what"])


@dataclass
class Workspace:
    """As much of one as a release asks for before it gathers evidence."""

    path: Path
    checkout: Path = Path()

    def paths(self) -> "Workspace":
        return self

    @property
    def bundle(self) -> Path:
        return self.path


def test_evidence_on_a_champion_that_still_is_one_is_taken_as_it_is(
    shop: Shop, gathered: list[int]
) -> None:
    shop.release("one")
    candidate = shop.register("two")
    found = evidence("staging:1")
    assert _current(context(shop), candidate, found) is found
    assert gathered == []


def test_the_champion_itself_is_compared_with_nothing(shop: Shop, gathered: list[int]) -> None:
    shop.release("one")
    itself = shop.registry.version("adapter", 1)
    found = evidence(None)
    assert _current(context(shop), itself, found) is found
    assert gathered == []


@pytest.mark.parametrize("compared", [None, "staging:9", "production:1"])
def test_another_champion_since_asks_for_new_evidence(
    compared: str | None, shop: Shop, gathered: list[int]
) -> None:
    shop.release("one")
    candidate = shop.register("two")
    _current(context(shop), candidate, evidence(compared))
    assert gathered == [2]


def test_a_champion_that_is_gone_asks_for_new_evidence(shop: Shop, gathered: list[int]) -> None:
    candidate = shop.register("two")
    _current(context(shop), candidate, evidence("staging:1"))
    assert gathered == [candidate.number]


def test_what_another_release_judged_half_way_has_evidence_gathered(
    shop: Shop, gathered: list[int]
) -> None:
    """It had a verdict when evidence was gathered, and has none now: a rule was changed between."""
    candidate = shop.register("two")
    _current(context(shop), candidate, None)
    assert gathered == [candidate.number]


def quiet_mend(model: ServedModel, ledger: Ledger, params: Any, downloads: Path) -> list[str]:
    """What `mend` does, outside of a flow."""
    return [*reconcile(ledger, model), *expire_old(ledger, model, params, downloads)]


@pytest.mark.parametrize("step", ["registering", "judging"])
def test_a_release_first_finishes_what_another_left(
    step: str, reigned: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reigned.release("three")
    intent = reigned.intent(3)
    reigned.registry.set_model_tag("adapter", INTENT_TAG, intent.model_dump_json())
    monkeypatch.setattr(release, "mend", quiet_mend)
    monkeypatch.setattr(release, "ask_for_approval", lambda *_, **__: [])
    now = SimpleNamespace(versions={})
    log: Any = SimpleNamespace(begin=lambda _: None, now=now)
    promoter = Promoter(reigned.ledger, reigned.lock, PARAMS, reigned.downloads, 30)
    paths = SimpleNamespace(bundle="b", model_store="m")
    workspace: Any = SimpleNamespace(path=tmp_path, checkout=tmp_path, paths=lambda: paths)
    made = _ReleaseContext(workspace, log, promoter, reigned.registry, log)
    if step == "judging":
        release._decide(made, [], {}, log)
    else:
        seen = list[dict[str, int]]()
        monkeypatch.setattr(release, "register_prompt", lambda *_: seen.append(reigned.aliases()))
        monkeypatch.setattr(release, "register", lambda *_, **__: [])
        release._register(made, log)
        assert seen[0]["production"] == 3
    assert reigned.kinds()[-1] == "moved"
    assert reigned.aliases() == {"candidate": 3, "previous": 2, "production": 3, "staging": 3}
    assert reigned.faults() == ()


@pytest.mark.parametrize("at_release", [True, False])
def test_a_release_deletes_what_is_old_where_params_say_so(
    at_release: bool, reigned: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("three", "four"):
        reigned.release(text)  # four takes staging from three, which nothing needs then
    kept = PARAMS.retention.model_copy(
        update={"at_release": at_release, "archived": 0, "days": 0, "rollback_targets": 1}
    )
    params = PARAMS.model_copy(update={"retention": kept})
    promoter = Promoter(reigned.ledger, reigned.lock, params, reigned.downloads, 1)
    anything: Any = SimpleNamespace(begin=lambda _: None)
    monkeypatch.setattr(release, "mend", quiet_mend)
    monkeypatch.setattr(release, "ask_for_approval", lambda *_, **__: [])
    made = _ReleaseContext(anything, anything, promoter, reigned.registry, anything)
    _, notes = release._decide(made, [], {}, anything)
    deleted = [note for note in notes if "was deleted" in note]
    assert bool(deleted) is at_release
    assert (3 in reigned.registry.numbers("adapter")) is not at_release
    assert reigned.faults() == ()


def test_a_version_is_judged_beside_earlier_champions_and_with_the_use_of_its_test_records(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = shop.register("one")
    seen = list[Any]()

    def task(name: str) -> Any:
        return lambda *given: seen.append((name, given)) or name

    for name in ("rescore", "rescore_earlier", "count_record_use"):
        monkeypatch.setattr(release, name, task(name))
    monkeypatch.setattr(release, "promotion_key", lambda _: "0" * 64)
    promoter = Promoter(shop.ledger, shop.lock, PARAMS, shop.downloads, 30)
    workspace: Any = SimpleNamespace(path=tmp_path, paths=lambda: paths)
    anything: Any = None
    paths = WorkspacePaths.model_validate(read_yaml(Path("params/paths.yaml")))
    made = _ReleaseContext(workspace, anything, promoter, shop.registry, anything)
    found = release._evidence(made, version)
    assert (found.champion, found.earlier, found.uses) == tuple(name for name, _ in seen)
    assert seen[1][1][2] is seen[2][1][0] is shop.ledger
    assert seen[2][1][1] == tmp_path / "data/curated/test.jsonl"
