"""A verdict reaches registry and ledger: once, with its reasons, and with what it rests on."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.orchestration import release as judgement
from tasks.orchestration import release as releasing
from tasks.orchestration.release import (
    ITSELF,
    VerdictKey,
    VersionVerdict,
    apply_verdict,
    decide_version,
    earlier_verdict,
    refuse_foreign_champion,
    verdict_key,
    warn_of_teacher,
    write_decision,
)
from tasks.promotion.evidence import EvidenceFiles, UnscoredChampion
from tasks.registry.transactions import reconcile
from tasks.registry.versions import Version
from tasks.stage.errors import DataError
from tests.builders.promotion_evidence import Change, good_night, with_earlier
from tests.builders.registry import PARAMS, Shop

pytestmark = pytest.mark.slow


@dataclass
class Bench:
    """A registered version, the evidence on it, and the tables that Prefect was given."""

    root: Path
    shop: Shop
    number: int
    tables: list[dict[str, Any]]

    @property
    def version(self) -> Version:
        return self.shop.registry.version("adapter", self.number)

    def evidence(self, change: Change | None = None) -> EvidenceFiles:
        night = good_night()
        if change is not None:
            change(night)
        return night.write(self.root, "adapter")

    def judge(self, evidence: EvidenceFiles) -> VersionVerdict:
        """The judgement, carried out, unless there is an earlier one."""
        key = self.key(evidence)
        known = earlier_verdict(self.version, key)
        found = known or decide_version.fn(self.version, self.root, evidence, key)
        apply_verdict.fn(found, self.shop.ledger, PARAMS)
        return found

    def key(self, evidence: EvidenceFiles) -> VerdictKey:
        """What a verdict rests on, with the champion of the evidence."""
        reports = [
            evidence.validation,
            evidence.curation,
            evidence.evaluation,
            evidence.packaging,
        ]
        champion = "base" if evidence.champion is None else evidence.champion.name
        return verdict_key(self.version, self.root, reports, champion)

    def tags(self) -> dict[str, str]:
        return self.version.tags


@pytest.fixture
def bench(tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Bench:
    version = shop.register("night")
    root = tmp_path / "root"
    (root / "params").mkdir(parents=True)
    shutil.copyfile("params/promotion.yaml", root / "params" / "promotion.yaml")
    tables: list[dict[str, Any]] = []
    # Both need a run in Prefect, which tests/pipeline has.
    for module in (judgement, releasing):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("judge"))
    monkeypatch.setattr(
        judgement,
        "create_table_artifact",
        lambda rows, **given: tables.append({**given, "rows": rows}),
    )
    return Bench(root, shop, version.number, tables)


def heavy(night: Any) -> None:
    night.tonight.metrics["sizes"]["adapter"]["megabytes"] = 2780.0


def test_a_good_version_is_promoted_and_says_why(bench: Bench) -> None:
    found = bench.judge(bench.evidence())
    assert found.verdict == "promoted"
    assert bench.tags()["verdict"] == "promoted"
    reasons = json.loads(bench.tags()["reasons"])
    assert reasons[:20] == list(found.told)[:20]  # a tag holds 4,000 characters
    assert found.reasons == ()
    assert all(reason.startswith("adapter: ") for reason in reasons[:20])
    [table] = bench.tables
    assert table["key"] == "verdict-adapter"
    assert table["rows"][0]["rule"] == "data_accepted"


def test_warnings_and_rules_that_are_off_are_told_apart_from_what_passed(bench: Bench) -> None:
    def doubtful(night: Any) -> None:
        night.tonight.metrics["forgetting"]["instructions_kept"] = 0.2
        night.champion = None

    found = bench.judge(bench.evidence(doubtful))
    assert found.verdict == "promoted"
    [reason] = found.reasons
    assert reason.startswith("adapter: warning of instructions: the adapter still follows 20%")
    off = [reason for reason in found.passed if reason.startswith("adapter: off: not_")]
    assert len(off) == 4
    assert sum("no other version is champion" in reason for reason in off) == 2


def test_a_good_version_beside_a_foreign_reign_is_refused_in_the_ledger_and_judged_again(
    bench: Bench,
) -> None:
    shop = bench.shop
    shop.client.create_model_version("nightloom-adapter", source=str(shop.root), run_id=None)
    shop.client.set_registered_model_alias("nightloom-adapter", "production", "2")
    reconcile(shop.ledger, "adapter")
    evidence = bench.evidence()
    judged = decide_version.fn(bench.version, bench.root, evidence, bench.key(evidence))
    assert judged.verdict == "promoted"
    found = refuse_foreign_champion(judged, shop.ledger)
    apply_verdict.fn(found, shop.ledger, PARAMS)
    assert (
        "production names nightloom-adapter version 2, which Nightloom did not" in found.reasons[0]
    )
    last = shop.ledger.links()[-1].entry
    assert (last.kind, last.version) == ("refused", bench.number)
    assert "which Nightloom did not make" in last.reason
    assert found.refused_by == ("champion",)
    assert bench.tags()["verdict"] == "refused"
    assert earlier_verdict(bench.version, bench.key(evidence)) is None
    assert shop.aliases()["production"] == 2


def test_a_refused_version_moves_nothing(bench: Bench) -> None:
    before = bench.shop.aliases()
    found = bench.judge(bench.evidence(heavy))
    assert found.verdict == "refused"
    assert found.reasons[0].startswith("adapter: refused by size: adapter's weights")
    assert "5.56 times the base's" in found.reasons[0]
    assert found.refused_by == ("size",)
    assert len(found.reasons) == 1
    assert bench.shop.aliases() == before
    assert bench.tags()["stage"] == "none"


def test_evidence_that_is_not_there_leaves_no_verdict(bench: Bench) -> None:
    evidence = bench.evidence()
    (evidence.packaging / "likelihoods.parquet").unlink()
    with pytest.raises(DataError, match="likelihoods"):
        bench.judge(evidence)
    assert "verdict" not in bench.tags()
    assert "staging" not in bench.shop.aliases()


def other_rules(bench: Bench, _: EvidenceFiles) -> None:
    rules = bench.root / "params" / "promotion.yaml"
    rules.write_text(rules.read_text().replace("max_over_base: 1.1", "max_over_base: 1.2"))


def a_leak(_: Bench, evidence: EvidenceFiles) -> None:
    (evidence.curation / "metrics.json").write_text(json.dumps({"leaks": {"questions": 1}}))


def other_answers(_: Bench, evidence: EvidenceFiles) -> None:
    shutil.copyfile(
        evidence.packaging / "likelihoods.parquet", evidence.evaluation / "predictions.parquet"
    )


def no_report(_: Bench, evidence: EvidenceFiles) -> None:
    (evidence.validation / "metrics.json").unlink()


def test_a_verdict_stands_while_nothing_changes_that_it_rests_on(bench: Bench) -> None:
    evidence = bench.evidence(heavy)
    bench.judge(evidence)
    again = bench.judge(evidence)
    assert (again.verdict, again.stands, again.decision) == ("unchanged", "refused", None)
    [text] = again.reasons
    assert "was refused before by size." in text
    assert "another champion than production:3" in text
    assert "`nightloom release`" in text
    assert len(bench.shop.ledger.links()) == 1


@pytest.mark.parametrize("change", [other_rules, a_leak, other_answers, no_report])
def test_whatever_a_verdict_rests_on_lets_it_be_decided_again(
    change: Callable[[Bench, EvidenceFiles], None], bench: Bench
) -> None:
    evidence = bench.evidence(heavy)
    bench.judge(evidence)
    change(bench, evidence)
    assert earlier_verdict(bench.version, bench.key(evidence)) is None


def test_another_champion_lets_a_version_be_decided_again_but_for_its_own_rise(
    bench: Bench,
) -> None:
    evidence = bench.evidence()
    bench.judge(evidence)
    key = bench.key(evidence)
    assert key.champion == "production:3"
    assert earlier_verdict(bench.version, replace(key, champion=ITSELF)) is not None
    for champion in ("production:4", "staging:3", "base"):
        assert earlier_verdict(bench.version, replace(key, champion=champion)) is None


def test_a_tag_of_before_lets_a_version_be_decided_again(bench: Bench) -> None:
    evidence = bench.evidence()
    bench.judge(evidence)
    bench.shop.registry.tag(bench.version, {"judged_by": "a" * 64})
    assert bench.judge(evidence).verdict == "promoted"


def test_the_rules_of_a_refused_version_can_be_mended(bench: Bench) -> None:
    evidence = bench.evidence(heavy)
    assert bench.judge(evidence).verdict == "refused"
    rules = bench.root / "params" / "promotion.yaml"
    rules.write_text(rules.read_text().replace("max_over_base: 1.1", "max_over_base: 8.0"))
    assert bench.judge(evidence).verdict == "promoted"


def test_a_student_whose_teacher_is_refused_goes_on_with_a_warning(bench: Bench) -> None:
    evidence = bench.evidence(heavy)
    refused = decide_version.fn(bench.version, bench.root, evidence, bench.key(evidence))
    stands = replace(refused, verdict="unchanged")
    student = bench.shop.register("night", "student")
    good = good_night(model="student").write(bench.root / "student", "student")
    promoted = decide_version.fn(student, bench.root, good, bench.key(good))
    assert warn_of_teacher(promoted, replace(refused, stands="promoted")) is promoted
    assert warn_of_teacher(refused, refused) is refused
    for teacher in (refused, stands):
        found = warn_of_teacher(promoted, teacher)
        assert found.verdict == "promoted"
        assert found.reasons[0].startswith(
            "student: warning of teacher: its teacher, adapter version 1, is refused (size)"
        )
        assert found.key == promoted.key
        assert found.decision is not None
        assert found.decision.warned[0].rule == "teacher"


def test_a_tag_holds_as_many_reasons_as_fit_and_stays_json(bench: Bench) -> None:
    def wordy(night: Any) -> None:
        heavy(night)
        night.champion.rows = [replace(r, token_f1=r.token_f1 + 0.5) for r in night.champion.rows]
        slices = [f"{number}-{'x' * 300}" for number in range(40)]
        night.tonight.rows = [
            replace(row, slice=slices[int(row.record[1:])]) for row in night.tonight.rows
        ]

    found = bench.judge(bench.evidence(wordy))
    kept = json.loads(bench.tags()["reasons"])
    assert 1 < len(kept) < len(found.reasons)
    assert kept[-1] == f"and {len(found.reasons) - len(kept) + 1} more"


def test_a_decision_is_written_with_what_it_rests_on(bench: Bench, tmp_path: Path) -> None:
    evidence = bench.evidence(with_earlier(scores=0.05, likelihoods=0.01))
    assert "version 2" in evidence.digests()
    found = bench.judge(evidence)
    assert found.decision is not None
    write_decision(found, tmp_path / "verdict.json")
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert evidence.digests().items() <= content["evidence"].items()
    assert (content["version"], content["evidence"]["reigning"]) == (bench.number, "production:3")
    [link] = bench.shop.ledger.links("adapter")
    assert content["evidence"].items() <= link.entry.evidence.items()
    assert {row["outcome"] for row in content["reasons"]} == {"passed"}


def test_a_champion_that_could_not_be_scored_refuses_for_tonight_and_is_judged_again(
    bench: Bench,
) -> None:
    gone = UnscoredChampion("production:3", "its artifacts were deleted")
    evidence = replace(bench.evidence(), champion=gone)
    found = bench.judge(evidence)
    assert found.verdict == "refused"
    assert "production:3 could not be scored on tonight's split" in found.reasons[0]
    assert "its artifacts were deleted" in found.reasons[0]
    assert bench.judge(bench.evidence()).verdict == "promoted"
