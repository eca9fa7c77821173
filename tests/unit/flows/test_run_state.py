"""A night's record says in one word and one line how it ended, however it ended."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import TerminationSignal
from rich.console import Console

from flows.console import print_summary
from flows.nightly import _state
from flows.run_state import (
    VERDICTS,
    ModelOutcome,
    ModelVerdict,
    NightLog,
    NightState,
    Verdict,
    combined_verdict,
    last_nights,
)
from flows.workspace import Workspace, night_lock
from tasks.orchestration.night_figures import RowStep
from tasks.orchestration.stages import StageOutcome, StageState
from tasks.services.processes import TIME_LIMIT, StageError
from tasks.stage.errors import DataError

LATENCY = "adapter: refused by latency: " + "its answers took longer than the base's; " * 40


def night(verdict: Verdict = "partly_promoted") -> NightState:
    """A night whose adapter was refused and whose student goes on."""
    return NightState(
        night="2026-11-29T023000Z",
        verdict=verdict,
        models={
            "student": ModelVerdict(
                verdict="promoted",
                headline="promoted to staging",
                reasons=["student: warning of teacher: its teacher is refused"],
                passed=["student: passed size: its weights", "student: passed stops: it ends"],
            ),
            "adapter": ModelVerdict(
                verdict="refused",
                headline="refused (latency)",
                reasons=[LATENCY],
                passed=["adapter: passed size: its weights"],
            ),
        },
        reasons=[LATENCY, "student: warning of teacher: its teacher is refused"],
        versions={"adapter": 4, "student": 4},
        aliases={"adapter": {"production": 3, "candidate": 4}, "student": {"staging": 4}},
        workspace="",
        pid=1,
    )


@pytest.mark.parametrize(
    ("outcomes", "verdict", "code"),
    [
        (("promoted", "promoted"), "promoted", 0),
        (("promoted", "unchanged"), "promoted", 0),
        (("unchanged", "unchanged"), "unchanged", 0),
        (("promoted", "refused"), "partly_promoted", 3),
        (("refused", "promoted"), "partly_promoted", 3),
        (("refused", "unchanged"), "refused", 3),
        (("refused", "refused"), "refused", 3),
    ],
)
def test_a_nights_verdict_is_made_of_its_models_and_3_wherever_one_was_refused(
    outcomes: tuple[ModelOutcome, ...], verdict: Verdict, code: int
) -> None:
    assert combined_verdict(outcomes) == verdict
    assert VERDICTS[verdict].exit_code == code


def test_every_verdict_has_an_exit_code_a_state_and_a_place_in_the_docs() -> None:
    assert set(VERDICTS) == set(get_args(Verdict))
    assert {name for name, kind in VERDICTS.items() if kind.exit_code == 3} == {
        "partly_promoted",
        "refused",
    }
    page = Path("docs/reference/commands.md").read_text(encoding="utf-8")
    for name, kind in VERDICTS.items():
        row = f"| {name.replace('_', ' ')} | {kind.exit_code} | {kind.state.capitalize()} |"
        assert row in page


def test_a_night_in_one_line_begins_with_what_was_refused() -> None:
    found = night().headline()
    assert found == "adapter: refused (latency); student: promoted to staging"


def test_a_state_in_prefect_is_named_after_the_verdict_and_has_one_short_line() -> None:
    state = _state(night())
    assert (state.type, state.name) == (StateType.COMPLETED, "Partly Promoted")
    assert state.message == "adapter: refused (latency); student: promoted to staging"
    long = night("refused").model_copy(update={"models": {}, "reasons": ["a\nb " * 200]})
    message = _state(long).message
    assert message is not None
    assert (len(message), message.count("\n")) == (200, 0)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (KeyboardInterrupt(), "cancelled"),
        (TerminationSignal(15), "cancelled"),
        (DataError("a row is bad", "mend it"), "failed"),
        (ZeroDivisionError(), "failed"),
        (StageError("finetuning: it was ended after 24 h", "raise it", TIME_LIMIT), "timed_out"),
    ],
)
def test_a_night_that_ended_early_has_a_verdict_of_its_own(
    error: BaseException, verdict: Verdict, tmp_path: Path
) -> None:
    log = NightLog(Workspace(tmp_path, tmp_path, ()), "night")
    log.fail(error)
    [found] = last_nights(tmp_path, 1)
    assert found.verdict == verdict
    assert found.error is not None
    assert found.headline().startswith(f"{found.error.kind}: ")


def test_a_night_whose_process_is_gone_crashed_and_one_that_holds_its_lock_runs(
    tmp_path: Path,
) -> None:
    place = Workspace(tmp_path, tmp_path, ())
    (tmp_path / ".nightloom").mkdir()
    with night_lock(place.lock):
        NightLog(place, "night").begin("finetuning")
        [running] = last_nights(tmp_path, 1)
        assert (running.pid, running.verdict) == (os.getpid(), None)
    [crashed] = last_nights(tmp_path, 1)
    assert crashed.verdict == "crashed"
    assert crashed.error is not None
    assert f"process {os.getpid()} ended in finetuning" in crashed.error.message


def test_a_stage_that_ran_in_a_build_before_tonights_last_one_did_run_tonight(
    tmp_path: Path,
) -> None:
    log = NightLog(Workspace(tmp_path, tmp_path, ()), "night")
    builds: list[tuple[StageState, StageState]] = [("executed", "failed"), ("skipped", "restored")]
    for states in builds:
        log.plan(["finetuning", "distillation"])
        for name, state in zip(("finetuning", "distillation"), states, strict=True):
            log.start(name)
            log.finish(StageOutcome(name, state, 40.0 if state == "executed" else 1.0))
    assert [(one.name, one.state, one.seconds) for one in log.now.stages] == [
        ("finetuning", "executed", 40.0),
        ("distillation", "restored", 1.0),
    ]


def test_a_record_of_before_is_read(tmp_path: Path) -> None:
    folder = tmp_path / ".nightloom" / "nights"
    folder.mkdir(parents=True)
    old = night().model_dump(exclude={"models"}) | {"verdict": "promoted"}
    (folder / "old.json").write_text(NightState.model_validate(old).model_dump_json())
    [found] = last_nights(tmp_path, 1)
    assert (found.verdict, found.models, found.error) == ("promoted", {}, None)


def shown(state: NightState, folder: Path, *, verbose: bool = False) -> list[str]:
    stream = io.StringIO()
    print_summary(Console(file=stream, width=80), state, folder, None, verbose=verbose)
    return stream.getvalue().splitlines()


def test_the_morning_is_answered_in_the_first_five_lines(tmp_path: Path) -> None:
    lines = shown(night(), tmp_path)
    assert lines[0] == "night 2026-11-29T023000Z: partly promoted"
    assert lines[1] == "  adapter: refused (latency) - version 4 (candidate)"
    assert lines[2] == "  student: promoted to staging - version 4 (staging)"
    assert lines[3].startswith("  - adapter: refused by latency: ")
    text = "\n".join(lines)
    assert "rules that passed or are off: 1 of the adapter, 2 of the student" in text
    assert "passed size" not in text


def test_the_summary_names_the_sources_that_were_left_out(tmp_path: Path) -> None:
    left_out = {"faq": "DataError: no file faq.csv (what to do: mend the path in files)"}
    state = night().model_copy(update={"left_out": left_out})
    text = " ".join(" ".join(shown(state, tmp_path)).split())
    assert "source faq was left out: DataError: no file faq.csv (what to do: mend" in text
    assert NightState.model_validate_json(state.model_dump_json(by_alias=True)) == state


def test_rules_that_passed_are_shown_where_they_are_asked_for(tmp_path: Path) -> None:
    text = "\n".join(shown(night(), tmp_path, verbose=True))
    assert text.count("passed size: its weights") == 2
    assert text.index("refused by latency") < text.index("passed size")


def test_the_summary_tells_rows_in_and_rows_left_at_every_step(tmp_path: Path) -> None:
    steps = [("validation", 1100, 1080), ("quality", 1080, 1075), ("tokenization", 1075, 1000)]
    state = night()
    state.steps = [RowStep(step=name, rows=rows, left=left) for name, rows, left in steps]
    text = " ".join(" ".join(shown(state, tmp_path)).split())
    assert "rows: validation 1,100 in, 1,080 left; quality 1,080 in, 1,075 left; token" in text
    assert NightState.model_validate_json(state.model_dump_json()).steps == state.steps


def test_a_path_is_never_broken_by_the_end_of_a_line(tmp_path: Path) -> None:
    path = f"/home/somebody/{'a-long-folder/' * 9}.nightloom/workspaces/0123456789ab/report.md"
    refused = night("refused").model_copy(update={"reasons": [f"what to do: look at {path}"]})
    assert any(line.endswith(path) for line in shown(refused, tmp_path))
    log = NightLog(Workspace(tmp_path, tmp_path, ()), "n")
    log.fail(DataError("odd rows", f"mend the rows that {path} lists"))
    assert any(path in line for line in shown(log.now, tmp_path))


@pytest.mark.parametrize("kept", [True, False])
def test_the_stages_log_is_named_with_its_place(kept: bool, tmp_path: Path) -> None:
    log = NightLog(Workspace(tmp_path, tmp_path, ()), "2026-11-29T023000Z")
    path = tmp_path / ".nightloom/logs/2026-11-29T023000Z.log"
    if kept:
        path.parent.mkdir()
        path.write_text("Traceback\n")
    place = str(path) if kept else "the page of the flow run in Prefect"
    remedy = f"read the traceback in the stage's log ({place}); this one was not foreseen"
    assert log.fail(ValueError("odd")).remedy == remedy


@pytest.mark.slow
def test_reading_records_imports_no_prefect() -> None:
    code = "import sys, flows.run_state; assert 'prefect' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
