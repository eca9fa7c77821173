"""The command: what it costs, what it prints, how it exits."""

import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from flows.cli import app, evaluate
from flows.console import print_summary
from flows.nightly import refused
from flows.run_state import NightLog, failed_night_report, new_night_name, night_report, read_night
from flows.servers import Services
from flows.workspace import Workspace
from tasks.orchestration.stages import StageOutcome
from tasks.services.processes import stage_error
from tasks.stage.errors import DataError, Failure, GateError

KEYS = [
    "night", "verdict", "models", "stages", "steps", "reasons", "left_out", "versions", "aliases",
    "error",
]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path, ())


# Each takes a tenth of a second or more to import, and pydantic's models are built on top.
SLOW = ["prefect", "mlflow", "dvc", "torch", "pandas", "numpy", "scipy", "pyarrow", "pydantic",
        "psutil", "yaml", "urllib.request"]  # fmt: skip


@pytest.mark.slow
def test_help_imports_no_library_that_is_slow_to_import() -> None:
    code = (
        "import sys, flows.cli\n"
        "try: flows.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {SLOW} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def commands(app: typer.Typer) -> dict[str, Any]:
    """Return every command below an app, by the words that call it."""
    found, waiting = {}, [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        found[" ".join(words)] = command
        below: dict[str, Any] = getattr(command, "commands", {})
        waiting += [((*words, name), child) for name, child in below.items()]
    return found


def hidden_defaults(app: typer.Typer) -> list[str]:
    """Return what may be left out without that help says what holds then."""
    found = []
    for words, command in commands(app).items():
        help_ = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "300"}).stdout
        for item in command.params:
            name = item.opts[0]
            if item.required or (getattr(item, "is_flag", False) and item.default is False):
                continue  # a flag that is not given is off
            default = item.default
            if isinstance(item.show_default, str):
                default = f"({item.show_default})"
            elif isinstance(default, list):
                default = ", ".join(default)
            told = f"[default: {default}]"
            if not any(f" {name} " in line and told in line for line in help_.splitlines()):
                found.append(f"{words} {name}".strip())
    return found


@pytest.mark.parametrize("shown", [app, evaluate.app], ids=["nightloom", "evaluate"])
def test_help_names_the_default_of_every_option(shown: typer.Typer) -> None:
    assert hidden_defaults(shown) == []


def test_a_default_that_help_hides_is_found() -> None:
    hiding = typer.Typer(add_completion=False)

    @hiding.command()
    def told(
        one: int = 1,
        two: Annotated[int, typer.Option(show_default=False)] = 2,
        three: str | None = None,
        four: Annotated[list[str] | None, typer.Option(show_default="all")] = None,
        five: bool = False,
    ) -> None: ...

    assert hidden_defaults(hiding) == ["--two", "--three"]


def test_an_unknown_param_fails_with_one_json_object_and_exit_code_1() -> None:
    found = CliRunner().invoke(app, ["run", "--set", "finetuning.rnk=3", "--json"])
    assert found.exit_code == 1
    content = json.loads(found.stdout)
    assert list(content) == KEYS
    assert content["verdict"] == "failed"
    assert content["error"]["class"] == "ConfigError"
    assert "finetuning.rank" in content["error"]["message"]
    assert content["error"]["remedy"]


def test_an_unknown_option_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["run", "--bogus"]).exit_code == 2


def test_outside_of_a_project_every_command_says_so(tmp_path: Path) -> None:
    reason = ["--reason", "because"]
    for command in (
        ["run"], ["status"], ["promote", *reason], ["rollback", *reason], ["prune"], ["ledger"],
        ["ledger", "verify"], ["doctor"], ["down"], ["up"], ["serve"],
    ):  # fmt: skip
        found = CliRunner().invoke(app, [*command, "--root", str(tmp_path)])
        assert found.exit_code == 1
        assert "no project at or above" in found.stderr


def test_a_night_is_told_as_it_goes(workspace: Workspace) -> None:
    name = new_night_name(datetime(2026, 11, 21, 3, 34, tzinfo=UTC))
    assert name == "2026-11-21T033400Z"
    log = NightLog(workspace, name)
    log.plan(["one", "two", "three"])
    log.start("one")
    log.finish(StageOutcome("one", "executed", 1.23))
    log.start("two")
    path = workspace.checkout / ".nightloom" / "nights" / f"{name}.json"
    assert [entry.state for entry in read_night(path).stages] == ["executed", "running", "not_run"]
    log.fail(stage_error("two", Failure("DataError", "a row is bad", "mend it")))
    content = json.loads(night_report(read_night(path)))
    assert list(content) == KEYS
    assert [entry["state"] for entry in content["stages"]] == ["executed", "failed", "not_run"]
    assert content["error"] == {
        "class": "DataError",
        "message": "two: a row is bad",
        "remedy": "mend it",
    }


def test_a_stage_that_names_a_class_of_its_own_keeps_it() -> None:
    assert isinstance(stage_error("one", Failure("DataError", "m", "r")), DataError)
    unknown = stage_error("one", Failure("ZeroDivisionError", "m", "r"))
    assert getattr(unknown, "kind", None) == "ZeroDivisionError"


def test_the_report_of_a_night_that_never_began_has_the_same_keys() -> None:
    assert list(failed_night_report(datetime.now(UTC))) == KEYS


def test_servers_of_a_dead_process_or_of_a_reused_pid_do_not_count(tmp_path: Path) -> None:
    services = Services(pid=os.getpid(), started=0.0, prefect="http://a", mlflow="http://b")
    services.write(tmp_path)
    assert Services.path(tmp_path).exists()
    assert Services.read(tmp_path) is None


@pytest.mark.parametrize("stage", ["curation", "packaging"])
def test_a_gates_refusal_tells_its_remedy_and_no_scores_of_an_earlier_night(
    workspace: Workspace, stage: str
) -> None:
    folder = workspace.path / "evaluation"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"systems": {"adapter": {"retrieved": {}}}}')
    log = NightLog(workspace, "n")
    log.plan(["curation", "evaluation", "packaging"])
    for name in ("curation", "evaluation", "packaging"):
        log.start(name)
        if name == stage:
            break
        log.finish(StageOutcome(name, "executed", 1.0))
    error = GateError("duplicates: 9 of 10 rows", "say `--set curation.x=0.9`")
    refused(log, error)
    stream = io.StringIO()
    print_summary(Console(file=stream, width=200), log.now, folder, None)

    assert "refused" in stream.getvalue()
    assert "duplicates: 9 of 10 rows" in stream.getvalue()
    assert "what to do: say `--set curation.x=0.9`" in stream.getvalue()
    assert ("adapter" in stream.getvalue()) == (stage == "packaging")
