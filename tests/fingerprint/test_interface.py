"""What a fingerprint looks at is found in the project itself, at whatever commit that stands."""

import json
import re
from pathlib import Path

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from tests.fingerprint.interface import told_modules
from tests.fingerprint.nights import _deep_command
from tests.fingerprint.outs import add_outs
from tests.fingerprint.store import param
from tests.fingerprint.values import Values, digest, plain, shape


def test_every_stage_is_among_the_modules_that_people_are_told_to_call() -> None:
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    modules = {re.findall(r"python -m ([\w.]+)", stage["cmd"])[0] for stage in stages.values()}
    assert len(modules) == len(stages)
    assert modules < set(told_modules(Path()))


def test_the_deep_evaluation_is_what_the_makefile_calls() -> None:
    module = _deep_command(Path())[0]
    assert Path(*module.split(".")).with_suffix(".py").exists()


def test_of_json_the_names_and_kinds_are_kept_and_of_a_text_all_but_hashes_ids_and_times() -> None:
    found = {"nights": [{"seconds": 1.5, "error": None}], "id": "a"}
    assert list(shape(found, "")) == [
        ".nights: list", ".nights[].seconds: float", ".nights[].error: NoneType", ".id: str",
    ]  # fmt: skip
    text = f"{'a' * 64} of {'0' * 32} at 2026-11-28T20:54:47+00:00, version 3 of 12"
    assert plain(text) == "SHA-256 of ID at TIME, version 3 of 12"


LINE = '{"intake": "INTAKE-1"}\n'


def test_of_an_entry_of_the_ledger_its_kind_and_names_are_kept_and_of_a_param_its_value() -> None:
    entry = {"id": "a", "kind": "refused", "before": {}, "evidence": {"metrics": "b"}}
    names = [".id: str", ".kind: str", ".before: dict", ".evidence.metrics: str"]
    assert param(json.dumps(entry)).splitlines() == ["kind refused", *names]
    assert [param(text) for text in ("0.1", "[1, 2]", '{"a": 1}', "tiny:llama")] == [
        "0.1", "[1, 2]", '{"a": 1}', "tiny:llama",
    ]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a table of two systems, rows that name their intake, and a manifest."""
    folder = tmp_path / "data" / "reports" / "evaluation"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "raw" / "intakes" / "20261128T205514Z-9155ce70").mkdir(parents=True)
    rows = {"system": ["twin", "base"], "mode": ["oracle"] * 2, "token_f1": [0.5, 0.25]}
    table = pyarrow.table(rows | {"latency_ms": [1.0, 2.0]})
    parquet.write_table(table, folder / "predictions.parquet")
    (tmp_path / "data" / "records.jsonl").write_text('{"intake": "20261128T205514Z-9155ce70"}\n')
    (folder / "metrics.json").write_text(
        json.dumps({"seconds": {"twin": 1.5}, "systems": {"twin": {"f1": 0.5}}, "curve": [0] * 9})
    )
    hashes = {
        name: digest((folder / name).read_bytes())
        for name in ("metrics.json", "predictions.parquet")
    }
    (folder / "manifest.json").write_text(json.dumps({"files": hashes}))
    (folder / "report.html").write_text("<p>twin</p>")
    return tmp_path


def test_files_are_told_by_what_can_be_renamed_in_them(workspace: Path) -> None:
    values = Values()
    add_outs(values, workspace, "files")
    report = "files/data/reports/evaluation"
    assert values.found == {
        "files/data/records.jsonl": f"1 lines {digest(LINE)}",
        f"{report}/manifest.json": "tells 2 files",
        f"{report}/metrics.json:.curve": f"9 numbers {digest(json.dumps([0] * 9))}",
        f"{report}/metrics.json:.seconds.twin": "(left out)",
        f"{report}/metrics.json:.systems.twin.f1": 0.5,
        f"{report}/predictions.parquet:twin/oracle.token_f1": f"1 rows {digest('[0.5]')}",
        f"{report}/predictions.parquet:twin/oracle.latency_ms": "(left out)",
        f"{report}/predictions.parquet:base/oracle.token_f1": f"1 rows {digest('[0.25]')}",
        f"{report}/predictions.parquet:base/oracle.latency_ms": "(left out)",
        f"{report}/report.html": "is there",
    }


def test_a_manifest_that_does_not_tell_its_files_is_no_fingerprint(workspace: Path) -> None:
    (workspace / "data" / "reports" / "evaluation" / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"does not tell what metrics\.json holds"):
        add_outs(Values(), workspace, "files")
