"""`nightloom intakes`: what came in, and one intake taken back wherever it lies."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.workspace import choose_workspace, night_lock, prepare
from tasks.records.withdrawals import withdrawn_intakes
from tasks.stage.outputs import folder_files, output_folders

NAMES = ("20260102T030405Z-aaaaaaaa", "20260103T030405Z-bbbbbbbb")


def make_intake(raw: Path, name: str, rows: int = 2) -> None:
    with output_folders(raw / "intakes" / name) as (folder,):
        lines = [
            json.dumps({"id": f"{name}-{n}", "question": "Q?", "answer": "A."}) for n in range(rows)
        ]
        (folder / "records.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (folder / "documents.jsonl").write_text("")
        content = {
            "name": name, "source": "files", "origin": ["r.jsonl"], "records": rows, "documents": 0,
            "faulty": 0, "unnamed": 0, "repeated": 0, "when": "2026-01-02T03:04:05+00:00",
            "source_updated": None, "since": {}, "python": "3.11",
        }  # fmt: skip
        (folder / "intake.json").write_text(json.dumps(content))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of two intakes, and a workspace that has them and one of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("params", ".dvc"):
        shutil.copytree(
            name, tmp_path / name, ignore=shutil.ignore_patterns("cache", "tmp", "*.local")
        )
    for name in ("dvc.yaml", "prefect.yaml", ".dvcignore"):
        shutil.copyfile(name, tmp_path / name)
    (tmp_path / "tasks").mkdir()
    for name in NAMES:
        make_intake(tmp_path / "data/raw", name)
    return tmp_path


def nightloom(checkout: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments, "--root", str(checkout)])
    return done.exit_code, " ".join(done.output.split())


def test_intakes_are_listed(checkout: Path) -> None:
    code, text = nightloom(checkout, "intakes", "--json")
    assert code == 0
    found = json.loads(text)["intakes"]
    assert [item["intake"]["name"] for item in found] == list(NAMES)
    assert found[0]["workspaces"] == ["checkout"]


@pytest.mark.slow
def test_an_intake_is_taken_back_in_every_workspace_and_the_ledger_says_so(checkout: Path) -> None:
    workspace = choose_workspace(checkout, None, ["finetuning.epochs=2"])
    prepare(workspace)
    before = folder_files(checkout / "data/raw/intakes")
    code, text = nightloom(checkout, "intakes", "withdraw", NAMES[0], "--reason", "mapped wrongly")
    assert (code, "is withdrawn from the next night on" in text) == (0, True), text
    assert folder_files(checkout / "data/raw/intakes") == before
    for raw in (checkout / "data/raw", workspace.path / "data/raw"):
        assert withdrawn_intakes(raw)[NAMES[0]].reason == "mapped wrongly"
    _, text = nightloom(checkout, "intakes")
    assert "mapped wrongly" in text
    _, text = nightloom(checkout, "ledger", "--json")
    [entry] = json.loads(text)
    assert (entry["kind"], entry["model"]) == ("withdrawn", None)
    assert entry["reason"] == f"intake {NAMES[0]}: mapped wrongly"
    assert nightloom(checkout, "ledger", "verify")[0] == 0

    code, text = nightloom(checkout, "intakes", "withdraw", NAMES[0], "--reason", "once more")
    assert (code, "withdrawn already" in text) == (1, True)
    code, _ = nightloom(
        checkout, "intakes", "withdraw", NAMES[0], "--undo", "--reason", "it was right"
    )
    assert code == 0
    assert withdrawn_intakes(workspace.path / "data/raw") == {}
    _, text = nightloom(checkout, "ledger")
    assert "restored" in text


@pytest.mark.slow
def test_what_can_not_be_taken_back_is_told(checkout: Path) -> None:
    code, text = nightloom(checkout, "intakes", "withdraw", "nothing", "--reason", "because")
    assert (code, "no intake 'nothing'" in text) == (1, True)
    with night_lock(checkout / ".nightloom/night.lock"):
        code, text = nightloom(checkout, "intakes", "withdraw", NAMES[0], "--reason", "because")
    assert (code, "a night is running" in text) == (1, True)
    assert withdrawn_intakes(checkout / "data/raw") == {}
    for name in NAMES:
        code, text = nightloom(checkout, "intakes", "withdraw", name, "--reason", "because")
    assert "no intake is current now" in text


def test_a_workspace_withdraws_what_the_checkout_withdrew_since(checkout: Path) -> None:
    from datetime import UTC, datetime

    from tasks.ingestion.withdrawal import restore_intake, withdraw_intake

    workspace = choose_workspace(checkout, None, ["finetuning.epochs=2"])
    prepare(workspace)
    withdraw_intake(checkout / "data/raw", NAMES[1], reason="why", by="ann", now=datetime.now(UTC))
    prepare(workspace)
    assert list(withdrawn_intakes(workspace.path / "data/raw")) == [NAMES[1]]
    restore_intake(checkout / "data/raw", NAMES[1])
    prepare(workspace)
    assert withdrawn_intakes(workspace.path / "data/raw") == {}
