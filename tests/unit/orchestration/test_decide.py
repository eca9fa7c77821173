"""A verdict reaches registry and ledger: once, with its reasons, and with what it rests on."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.orchestration import release as judgement
from tasks.orchestration import release as releasing
from tasks.orchestration.release import (
    VersionVerdict,
    apply_verdict,
    decide_version,
    earlier_verdict,
    refuse_foreign_champion,
    write_decision,
)
from tasks.promotion.evidence import EvidenceFiles, UnscoredChampion
from tasks.promotion.params import Params
from tasks.registry.transactions import reconcile
from tasks.registry.versions import Version
from tasks.stage.errors import ConfigError, DataError
from tests.builders.promotion_evidence import Change, good_night, with_earlier, with_rule
from tests.builders.registry import PARAMS, Shop

OLD_RULES = with_rule("latency", severity="refuse")


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
        known = earlier_verdict(self.version, self.root, evidence.curation)
        found = known or decide_version.fn(self.version, self.root, evidence)
        apply_verdict.fn(found, self.shop.ledger, PARAMS)
        return found

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


def slow(night: Any) -> None:
    night.tonight.metrics["sizes"]["adapter"]["latency_ms_p95"] = 5000.0


def test_a_good_version_is_promoted_and_says_why(bench: Bench) -> None:
    found = bench.judge(bench.evidence())
    assert found.verdict == "promoted"
    assert bench.tags()["verdict"] == "promoted"
    reasons = json.loads(bench.tags()["reasons"])
    assert reasons == list(found.reasons)
    assert all(reason.startswith("adapter: ") for reason in reasons)
    [table] = bench.tables
    assert table["key"] == "verdict-adapter"
    assert table["rows"][0]["rule"] == "data_accepted"


def test_warnings_and_rules_that_are_off_are_told_apart_from_what_passed(bench: Bench) -> None:
    def doubtful(night: Any) -> None:
        night.tonight.metrics["forgetting"]["instructions_kept"] = 0.2
        night.champion = None

    found = bench.judge(bench.evidence(doubtful))
    assert found.verdict == "promoted"
    assert found.reasons[0].startswith("adapter: warning: the adapter still follows 20%")
    assert sum(reason.startswith("adapter: off: no other version") for reason in found.reasons) == 2


def test_a_good_version_beside_a_foreign_reign_is_refused_in_the_ledger_and_judged_again(
    bench: Bench,
) -> None:
    shop = bench.shop
    shop.client.create_model_version("nightloom-adapter", source=str(shop.root), run_id=None)
    shop.client.set_registered_model_alias("nightloom-adapter", "production", "2")
    reconcile(shop.ledger, "adapter")
    judged = decide_version.fn(bench.version, bench.root, bench.evidence())
    assert judged.verdict == "promoted"
    found = refuse_foreign_champion(judged, shop.ledger)
    apply_verdict.fn(found, shop.ledger, PARAMS)
    assert (
        "production names nightloom-adapter version 2, which Nightloom did not" in found.reasons[0]
    )
    last = shop.ledger.links()[-1].entry
    assert (last.kind, last.version) == ("refused", bench.number)
    assert "which Nightloom did not make" in last.reason
    assert bench.tags()["verdict"] == "refused"
    assert earlier_verdict(bench.version, bench.root, bench.evidence().curation) is None
    assert shop.aliases()["production"] == 2


def test_a_refused_version_moves_nothing(bench: Bench) -> None:
    before = bench.shop.aliases()
    found = bench.judge(bench.evidence(heavy))
    assert found.verdict == "refused"
    assert "5.56 times the base's" in found.reasons[0]
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


def test_a_judged_version_keeps_its_verdict_until_rules_or_leaks_change(bench: Bench) -> None:
    evidence = bench.evidence(heavy)
    bench.judge(evidence)
    assert earlier_verdict(bench.version, bench.root, evidence.curation) is not None
    again = bench.judge(evidence)
    assert (again.verdict, again.decision) == ("unchanged", None)
    assert "was refused before" in again.reasons[0]
    rules = bench.root / "params" / "promotion.yaml"
    rules.write_text(rules.read_text().replace("max_over_base: 1.1", "max_over_base: 8.0"))
    assert bench.judge(evidence).verdict == "promoted"
    (evidence.curation / "metrics.json").write_text(json.dumps({"leaks": {"questions": 1}}))
    assert bench.judge(evidence).verdict == "refused"


def test_a_version_that_latency_alone_once_refused_is_judged_again_and_promoted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = bench.root / "params" / "promotion.yaml"
    now = rules.read_text()
    # As it was when latency could refuse.
    then = now.replace("severity: warn, max_over_base: 1.5", "severity: refuse, max_over_base: 1.5")
    assert then != now
    rules.write_text(then)
    evidence = bench.evidence(slow)
    with pytest.raises(ConfigError, match="latency may only warn"):
        bench.judge(evidence)
    with monkeypatch.context() as earlier:
        earlier.setattr(judgement, "load_params", lambda *_: Params(promotion=OLD_RULES))
        assert bench.judge(evidence).verdict == "refused"
        assert bench.judge(evidence).verdict == "unchanged"
    rules.write_text(now)
    found = bench.judge(evidence)
    assert found.verdict == bench.tags()["verdict"] == "promoted"
    assert found.reasons[0].startswith("adapter: warning: inside a batch 95% of adapter's answers")
    assert bench.shop.aliases()["staging"] == bench.number


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
