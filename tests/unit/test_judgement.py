"""A verdict reaches the registry: once, with its reasons, and with what it rests on."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tasks.orchestration import judgement
from tasks.orchestration.judgement import Judgement, earlier_judgement, judge, write_decision
from tasks.orchestration.registry import Registry, Version
from tasks.orchestration.stores import Stores
from tasks.orchestration.tracking import Tracker
from tasks.promotion.evidence import Evidence
from tasks.stage.errors import DataError
from tasks.stage.outputs import write_manifest
from tests.unit.decided import Change, good_night


@dataclass
class Bench:
    """A registered version, the evidence on it, and the tables that Prefect was given."""

    root: Path
    registry: Registry
    version: Version
    tables: list[dict[str, Any]]

    def evidence(self, change: Change | None = None) -> Evidence:
        night = good_night()
        if change is not None:
            change(night)
        return night.write(self.root, "adapter")

    def judge(self, evidence: Evidence) -> Judgement:
        return judge.fn(self.version, self.root, evidence, self.registry)

    def tags(self) -> dict[str, str]:
        return self.registry.version("adapter", self.version.number).tags


@pytest.fixture
def bench(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    stores = Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    registry = Registry(stores)
    bundle = tmp_path / "model" / "artifacts" / "bundle"
    bundle.mkdir(parents=True)
    write_manifest(bundle)
    run = Tracker(stores).begin_night("night", {})
    version = registry.register("adapter", "key", tmp_path / "model", run)
    root = tmp_path / "root"
    (root / "params").mkdir(parents=True)
    shutil.copyfile("params/promotion.yaml", root / "params" / "promotion.yaml")
    tables: list[dict[str, Any]] = []
    # Both need a run in Prefect, which tests/pipeline has.
    monkeypatch.setattr(judgement, "get_run_logger", lambda: logging.getLogger("judge"))
    monkeypatch.setattr(
        judgement,
        "create_table_artifact",
        lambda rows, **given: tables.append({**given, "rows": rows}),
    )
    return Bench(root, registry, version, tables)


def slow(night: Any) -> None:
    night.tonight.metrics["sizes"]["adapter"]["latency_ms_p95"] = 5000.0


def test_a_good_version_is_promoted_and_says_why(bench: Bench) -> None:
    found = bench.judge(bench.evidence())
    assert found.verdict == "promoted"
    assert bench.tags()["verdict"] == "promoted"
    reasons = json.loads(bench.tags()["reasons"])
    assert reasons == list(found.reasons)[: len(reasons)]
    assert all(reason.startswith("adapter: ") for reason in reasons)
    [table] = bench.tables
    assert table["key"] == "verdict-adapter"
    assert table["rows"][0]["rule"] == "data_accepted"


def test_warnings_and_rules_that_are_off_are_told_apart_from_what_passed(bench: Bench) -> None:
    def doubtful(night: Any) -> None:
        night.tonight.metrics["forgetting"]["instructions_kept"] = 0.2
        night.reigning = None

    found = bench.judge(bench.evidence(doubtful))
    assert found.verdict == "promoted"
    assert found.reasons[0].startswith("adapter: warning: the adapter still follows 20%")
    assert sum(reason.startswith("adapter: off: no other version") for reason in found.reasons) == 2


def test_a_refused_version_moves_nothing(bench: Bench) -> None:
    before = bench.registry.aliases("adapter")
    found = bench.judge(bench.evidence(slow))
    assert found.verdict == "refused"
    assert "5.56 times the base's" in found.reasons[0]
    assert len(found.reasons) == 1
    assert bench.registry.aliases("adapter") == before
    assert bench.tags()["stage"] == "none"


def test_evidence_that_is_not_there_leaves_no_verdict(bench: Bench) -> None:
    evidence = bench.evidence()
    (evidence.evaluation / "likelihoods.parquet").unlink()
    with pytest.raises(DataError, match="likelihoods"):
        bench.judge(evidence)
    assert "verdict" not in bench.tags()
    assert "staging" not in bench.registry.aliases("adapter")


def test_a_judged_version_keeps_its_verdict_until_rules_or_leaks_change(bench: Bench) -> None:
    evidence = bench.evidence(slow)
    bench.judge(evidence)
    bench.version = bench.registry.version("adapter", bench.version.number)
    assert earlier_judgement(bench.version, bench.root, evidence.curation) is not None
    again = bench.judge(evidence)
    assert (again.verdict, again.decision) == ("unchanged", None)
    assert "was refused before" in again.reasons[0]
    rules = bench.root / "params" / "promotion.yaml"
    rules.write_text(rules.read_text().replace("max_over_base: 1.5", "max_over_base: 8.0"))
    assert bench.judge(evidence).verdict == "promoted"
    bench.version = bench.registry.version("adapter", bench.version.number)
    (evidence.curation / "metrics.json").write_text(json.dumps({"leaks": {"questions": 1}}))
    assert bench.judge(evidence).verdict == "refused"


def test_a_tag_holds_as_many_reasons_as_fit_and_stays_json(bench: Bench) -> None:
    def wordy(night: Any) -> None:
        slow(night)
        night.reigning.rows = [replace(r, token_f1=r.token_f1 + 0.5) for r in night.reigning.rows]
        slices = [f"{number}-{'x' * 300}" for number in range(40)]
        night.tonight.rows = [
            replace(row, slice=slices[int(row.record[1:])]) for row in night.tonight.rows
        ]

    found = bench.judge(bench.evidence(wordy))
    kept = json.loads(bench.tags()["reasons"])
    assert 0 < len(kept) < len(found.reasons)


def test_a_decision_is_written_with_what_it_rests_on(bench: Bench, tmp_path: Path) -> None:
    evidence = bench.evidence()
    found = bench.judge(evidence)
    assert found.decision is not None
    write_decision(found.decision, bench.version, evidence, tmp_path / "verdict.json")
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert content["evidence"] == evidence.digests()
    assert (content["version"], content["reigning"]) == (bench.version.number, "production:3")
    assert {row["outcome"] for row in content["reasons"]} == {"passed"}
