"""Every ending of a night is told once, whoever finds it; a silence is told from outside."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from prefect.exceptions import TerminationSignal
from prefect.states import exception_to_crashed_state
from typer.testing import CliRunner

from flows.cli import app
from flows.cli import run as run_command
from flows.cli.night_checks import notification, verdict_age
from flows.cli.notify import told_lines
from flows.endings import ending_notice, notify_ending, notify_endings, tell_gave_up, tell_run
from flows.record import params_of_nights
from flows.run_state import (
    VERDICTS,
    ModelVerdict,
    NightLog,
    NightState,
    error_entry,
    last_nights,
    night_file,
    read_night,
    write_night,
)
from flows.watch import check_verdicts, read_watch, told_silence
from flows.workspace import Workspace, apply_overrides, read_overrides
from tasks.orchestration.notify import Verdict
from tasks.services import locks
from tasks.stage.errors import ConfigError, DataError, GateError
from tests.builders.listener import Listener, listener
from tests.builders.notified import CHANNEL, VARIABLE, told, write_params

NIGHT = "2026-11-29T023000Z"
GONE = 2**22 + 7  # no process has this pid: Linux counts to 2^22
RULE = "student: refused by latency: its answers took 1.62 times as long; at most 1.50 is asked for"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with listener() as found:
        monkeypatch.setenv(VARIABLE, found.url())
        yield found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    write_params(tmp_path)
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


def night(checkout: Path, verdict: Verdict | None, name: str = NIGHT, **more: Any) -> NightState:
    """Write a night's file, by default of a process that is gone."""
    given = {"workspace": str(checkout), "pid": GONE, "told": [], "step": "finetuning"} | more
    if verdict is not None:
        given = {"ended": datetime.now(UTC)} | given
    found = NightState(night=name, verdict=verdict, **given)
    path = night_file(checkout, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_night(path, found)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_each_ending_is_told_once_and_the_nights_file_says_to_whom(
    checkout: Path, hook: Listener, verdict: Verdict
) -> None:
    before = night(checkout, verdict)
    found = notify_ending(checkout, NIGHT)
    assert found is not None
    assert (found.verdict, found.channels) == (verdict, {"hook": None})
    assert notify_ending(checkout, NIGHT) is None
    assert notify_endings(checkout) == {}
    assert told(hook) == [(verdict, NIGHT)]
    after = read_night(night_file(checkout, NIGHT))
    assert after.told == [found]
    assert after.model_copy(update={"told": []}) == before


@pytest.mark.slow
def test_a_killed_night_is_told_by_who_finds_it_and_closing_it_tells_nothing_more(
    checkout: Path, hook: Listener
) -> None:
    night(checkout, None)
    assert list(notify_endings(checkout)) == [NIGHT]
    assert told(hook) == [("crashed", NIGHT)]
    assert "finetuning" in hook.asked[0].json["headline"]
    assert "run it again" in hook.asked[0].json["what_to_do"]
    kept = read_night(night_file(checkout, NIGHT))
    assert kept.verdict is None  # who closes what else was abandoned must still find it
    write_night(night_file(checkout, NIGHT), kept.model_copy(update={"verdict": "crashed"}))
    assert notify_ending(checkout, NIGHT) is None
    assert notify_endings(checkout) == {}
    assert len(hook.asked) == 1


@pytest.mark.slow
def test_every_channel_is_told_that_up_gave_up_whatever_it_asks_for(
    checkout: Path, hook: Listener
) -> None:
    write_params(checkout, CHANNEL | {"verdicts": ["promoted"]})
    tell_gave_up(checkout, ConfigError("worker ended by itself 5 times", "read worker.log"))
    [asked] = hook.asked
    found = (asked.json["event"], asked.json["headline"], asked.json["what_to_do"])
    assert found == ("gave_up", "worker ended by itself 5 times", "read worker.log")
    assert asked.json["night"] is None


@pytest.mark.slow
def test_a_night_that_was_killed_while_it_told_is_told(checkout: Path, hook: Listener) -> None:
    """Its verdict stands in its file, and nobody has heard of it."""
    night(checkout, "failed", "2026-11-27T023000Z")
    night(checkout, "promoted", "2026-11-28T023000Z")
    assert list(notify_endings(checkout)) == ["2026-11-27T023000Z", "2026-11-28T023000Z"]
    assert [event for event, _ in told(hook)] == ["failed", "promoted"]


@pytest.mark.slow
def test_a_night_that_runs_is_not_told_not_even_when_it_writes_its_last_pages(
    checkout: Path, hook: Listener
) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks.services.locks import hold\n"
        "with hold(Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()"
    )
    lock = checkout / ".nightloom" / "night.lock"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for verdict in (None, "promoted"):
            night(checkout, verdict, pid=holder.pid)
            assert notify_endings(checkout) == {}
        night(checkout, None, pid=holder.pid)
        assert notify_ending(checkout, NIGHT) is None
        assert holder.stdin is not None
        holder.stdin.close()
    assert hook.asked == []


def test_nights_of_before_are_not_told(checkout: Path, hook: Listener) -> None:
    night(checkout, "failed", told=None)
    night(checkout, None, "2026-11-28T023000Z", told=None)
    assert notify_endings(checkout) == {}
    assert hook.asked == []


@pytest.mark.slow
def test_two_that_find_an_ending_at_once_tell_it_once(checkout: Path, hook: Listener) -> None:
    night(checkout, None)
    hook.seconds = 0.5
    threads = [threading.Thread(target=notify_ending, args=(checkout, NIGHT)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(hook) == [("crashed", NIGHT)]


def test_wrong_params_fail_no_night_and_stand_in_its_file(checkout: Path) -> None:
    (checkout / "params" / "notify.yaml").write_text("channels: 3\n")
    night(checkout, "promoted")
    found = notify_ending(checkout, NIGHT)
    assert found is not None
    [(place, why)] = found.channels.items()
    assert place == "params/notify.yaml"
    assert "channels" in str(why)
    [line] = told_lines(last_nights(checkout, 1))
    assert "told to nobody; params/notify.yaml was not:" in line


def test_a_night_log_notes_when_the_night_ended_and_that_nobody_was_told(tmp_path: Path) -> None:
    log = NightLog(Workspace(tmp_path, tmp_path, ()), NIGHT)
    assert (log.now.ended, log.now.told) == (None, [])
    begun = datetime.now(UTC)
    log.fail(DataError("a row is bad", "mend it"))
    kept = read_night(night_file(tmp_path, NIGHT))
    assert kept.ended is not None
    assert begun <= kept.ended <= datetime.now(UTC)


def test_a_night_of_before_reads_as_one_that_says_neither(tmp_path: Path) -> None:
    old = {"night": NIGHT, "verdict": "promoted", "workspace": "/x", "pid": 3}
    found = NightState.model_validate_json(json.dumps(old))
    assert (found.ended, found.told, found.links) == (None, None, {})


def refused_night(checkout: Path, verdict: Verdict = "partly_promoted") -> NightState:
    models = {
        "student": ModelVerdict(
            verdict="refused",
            headline="refused (latency, teacher)",
            reasons=["student: warning: a few", RULE, "student: refused by teacher: no"],
        ),
        "adapter": ModelVerdict(verdict="promoted", headline="promoted to staging"),
    }
    versions = {"adapter": 4, "student": 5}
    return night(checkout, verdict, models=models, versions=versions, reasons=[RULE])


def test_a_refused_night_is_told_by_model_with_the_first_rule_its_number_and_its_bound(
    checkout: Path,
) -> None:
    logs = checkout / ".nightloom" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker.log").write_text("")
    found = ending_notice(checkout, refused_night(checkout))
    assert found.headline == "student: refused (latency, teacher); adapter: promoted to staging"
    assert found.first_against == RULE
    assert found.models["student"].version == 5
    assert found.log == str(logs / "worker.log")
    (logs / f"{NIGHT}.log").write_text("")
    assert ending_notice(checkout, refused_night(checkout)).log == str(logs / f"{NIGHT}.log")


def test_a_gates_refusal_and_an_error_are_told_with_their_remedy(checkout: Path) -> None:
    gate = GateError("validation: 12% of the rows are bad; expected at most 5%", "mend the rows")
    found = night(checkout, "refused", reasons=[gate.message, f"what to do: {gate.remedy}"])
    notice = ending_notice(checkout, found)
    assert (notice.headline, notice.what_to_do) == (gate.message, gate.remedy)
    secret = "postgresql://me:hunter2@db/rows"
    error = error_entry(ConfigError(f"{secret} does not answer", f"look at {secret}"))
    notice = ending_notice(checkout, night(checkout, "failed", error=error))
    assert notice.headline == "ConfigError: postgresql://me:***@db/rows does not answer"
    assert "hunter2" not in notice.model_dump_json()


def run(name: str | None, root: Path, start: datetime | None = None) -> Any:
    parameters = {"night": name, "root": str(root)}
    return SimpleNamespace(
        id="run", parameters=parameters, expected_start_time=start, deployment_id=None
    )


def state(kind: str, message: str | None) -> Any:
    return SimpleNamespace(type=SimpleNamespace(value=kind), message=message, data=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message", "verdict", "headline"),
    [
        (
            "FAILED",
            "Flow run encountered an exception: ConfigError: params/ holds no 'a.b'\n"
            "  what to do: name a param",
            "failed",
            "ConfigError: params/ holds no 'a.b'",
        ),
        ("FAILED", "학습 실패", "failed", "Failed: 학습 실패"),
        ("CRASHED", "Process exited with -9", "crashed", "Crashed: Process exited with -9"),
        ("CANCELLED", None, "cancelled", "Cancelled: no reason was left"),
    ],
)
def test_a_run_that_failed_before_its_night_began_is_told_and_stands_in_status(
    checkout: Path, hook: Listener, kind: str, message: str, verdict: str, headline: str
) -> None:
    start = datetime(2026, 11, 29, 2, 30, tzinfo=UTC)
    for _ in range(2):
        tell_run(None, run(None, checkout / "params", start), state(kind, message))
    assert told(hook) == [(verdict, NIGHT)]
    assert hook.asked[0].json["headline"] == headline
    [found] = last_nights(checkout, 5)
    assert (found.night, found.verdict, found.step) == (NIGHT, verdict, "not begun")


@pytest.mark.slow
@pytest.mark.parametrize("error", [TerminationSignal(15), KeyboardInterrupt()])
def test_a_run_that_is_ended_before_its_night_began_is_cancelled(
    checkout: Path, hook: Listener, error: BaseException
) -> None:
    """Prefect takes it for a crash of its own."""
    ended = asyncio.run(exception_to_crashed_state(error))
    assert ended.type.value == "CRASHED"
    tell_run(None, run(NIGHT, checkout), ended)
    [found] = last_nights(checkout, 5)
    assert (found.verdict, found.error and found.error.kind) == ("cancelled", "Interrupted")
    assert told(hook) == [("cancelled", NIGHT)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "verdict"),
    [(ConfigError("prefect did not answer", "read its log"), "failed"),
     (KeyboardInterrupt(), "cancelled")],
)  # fmt: skip
def test_a_night_of_run_that_failed_before_its_flow_is_told_and_stands_in_status(
    checkout: Path,
    hook: Listener,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    verdict: str,
) -> None:
    shutil.copy("params/paths.yaml", checkout / "params")
    monkeypatch.setattr(run_command, "_run_flow", lambda *_: error)
    monkeypatch.setattr("flows.shutdown.interrupt_on_signals", lambda **_: None)
    asked = run_command._Asked(checkout, None, ())
    found = run_command._run_night(checkout, asked, as_json=False)
    assert found.verdict == verdict
    assert [event for event, _ in told(hook)] == [verdict]
    assert last_nights(checkout, 5) == [found]


@pytest.mark.slow
def test_the_hook_tells_of_a_night_whose_process_was_killed(checkout: Path, hook: Listener) -> None:
    night(checkout, None, "by-name")
    tell_run(None, run("by-name", checkout), state("CRASHED", "Process exited with -9"))
    assert told(hook) == [("crashed", "by-name")]
    assert "finetuning" in hook.asked[0].json["headline"]


NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


@pytest.mark.slow
def test_a_silence_is_told_once_and_again_when_it_has_lasted_as_long_again(
    checkout: Path, hook: Listener
) -> None:
    night(checkout, "promoted", ended=NOW)
    notify_ending(checkout, NIGHT)
    hook.asked.clear()
    silent = {hour: check_verdicts(checkout, at(hour)).silent for hour in range(0, 80, 5)}
    assert silent == {hour: hour >= 26 for hour in range(0, 80, 5)}
    times = [asked.json["headline"] for asked in hook.asked]
    assert [text.split(":")[0] for text in times] == ["no verdict for 30 h", "no verdict for 60 h"]
    assert f"promoted, of night {NIGHT}; `nightloom up` does not run" in times[0]
    assert set(hook.events) == {"no_verdict"}
    night(checkout, "failed", "2026-12-03T023000Z", ended=at(80))
    assert not check_verdicts(checkout, at(81)).silent
    assert check_verdicts(checkout, at(107)).silent
    assert [event for event, _ in told(hook)][2:] == ["failed", "no_verdict"]


@pytest.mark.slow
def test_nights_that_never_began_are_missed_since_the_first_look(
    checkout: Path, hook: Listener
) -> None:
    assert not check_verdicts(checkout, at(0)).silent
    assert not check_verdicts(checkout, at(25)).silent
    report = check_verdicts(checkout, at(27))
    assert (report.silent, report.channels) == (True, {"hook": None})
    assert hook.asked[0].json["headline"].startswith("no night has come to a verdict in the 27 h")


@pytest.mark.slow
def test_a_clock_that_was_wrong_hides_no_silence(checkout: Path, hook: Listener) -> None:
    """Neither a verdict from the future, nor what the check remembers of it."""
    hook.status = 200
    night(checkout, "promoted", ended=at(24 * 3650), told=None)
    night(checkout, "promoted", "2026-11-28T023000Z", ended=at(0), told=None)
    check_verdicts(checkout, at(24 * 3650))
    assert check_verdicts(checkout, at(30)).silent
    watch = read_watch(checkout)
    assert watch is not None
    assert watch.since <= at(30)
    assert hook.events == ["no_verdict"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["", "{", "null", '{"night": 3}', "\x00" * 9])
def test_a_broken_file_silences_neither_the_check_nor_the_telling(
    checkout: Path, hook: Listener, broken: str
) -> None:
    write_params(checkout, no_verdict_hours=26.0)
    night(checkout, "failed", told=None, ended=at(-40))
    night_file(checkout, "2026-11-30T023000Z").write_text(broken)
    (checkout / ".nightloom" / "watch.json").write_text(broken)
    assert notify_endings(checkout) == {}
    assert check_verdicts(checkout, NOW).silent


@pytest.mark.slow
def test_a_full_disk_hides_no_silence(
    checkout: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(checkout, "failed", ended=at(-40))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flows.endings.write_night", full)
    report = check_verdicts(checkout, NOW)
    assert report.silent
    assert hook.events == ["failed", "no_verdict"]
    assert "No space left" in hook.asked[1].json["headline"]


@pytest.mark.slow
def test_the_check_says_what_it_knows_of_the_reason(checkout: Path, hook: Listener) -> None:
    night(checkout, "promoted", told=None, ended=at(-40))
    with locks.hold(checkout / ".nightloom" / "night.lock"):
        check_verdicts(checkout, NOW)
    assert (
        f"a night runs, and has not ended (process {os.getpid()})"
        in (hook.asked[0].json["headline"])
    )


@pytest.mark.slow
def test_the_command_tries_every_channel_and_exits_with_1_where_one_was_not_reached(
    checkout: Path, hook: Listener
) -> None:
    bad = {"name": "bad", "verdicts": ["promoted"], "kind": "command", "command": ["false"]}
    good = CHANNEL | {"verdicts": ["refused"]}
    write_params(checkout, good, bad, ping_variable=VARIABLE)
    done = CliRunner().invoke(app, ["notify", "--test", "--root", str(checkout)])
    assert done.exit_code == 1
    assert "hook: reached" in done.stdout
    assert "ping: reached" in done.stdout
    assert "bad: not reached: its command ended with exit code 1" in done.stdout
    assert hook.events == ["test", "channel_failed"]
    write_params(checkout, good)
    done = CliRunner().invoke(app, ["notify", "--test", "--json", "--root", str(checkout)])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"hook": None})


@pytest.mark.slow
def test_the_commands_check_exits_with_1_while_there_is_silence(
    checkout: Path, hook: Listener
) -> None:
    ended = datetime.now(UTC) - timedelta(hours=27)
    night(checkout, "refused", ended=ended)
    words = ["notify", "--check", "--root", str(checkout)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert f"night {NIGHT}: refused; it had been told to nobody, and is told now" in done.stdout
    assert "no verdict for 27 h: the last one was refused" in done.stdout
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, "this was told before" in again.stdout) == (1, True)
    assert hook.events == ["refused", "no_verdict"]
    assert str(told_silence(checkout)).endswith("(told to hook)")
    night(checkout, "promoted", "2026-11-30T023000Z", told=None)
    assert CliRunner().invoke(app, words).exit_code == 0
    assert told_silence(checkout) is None


@pytest.mark.slow
def test_the_check_runs_as_a_timer_runs_it_with_a_bare_environment_and_from_elsewhere(
    checkout: Path, hook: Listener
) -> None:
    night(checkout, None)
    words = ["-m", "flows.cli", "notify", "--check", "--root", str(checkout)]
    bare = {VARIABLE: hook.url(), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, *words], env=bare, cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert told(hook) == [("crashed", NIGHT)]
    assert sorted(path.name for path in (checkout / ".nightloom").glob("*.json")) == ["watch.json"]


def test_the_command_names_wrong_params_and_that_there_is_no_channel(checkout: Path) -> None:
    (checkout / "params" / "notify.yaml").write_text(Path("params/notify.yaml").read_text())
    shown = CliRunner().invoke(app, ["notify", "--root", str(checkout)])
    assert (shown.exit_code, "nobody is told" in shown.stdout) == (0, True)
    done = CliRunner().invoke(app, ["notify", "--test", "--json", "--root", str(checkout)])
    assert done.exit_code == 1
    assert "names no channel" in done.stdout
    write_params(checkout, channel_seconds=0.0)
    for option in ("--test", "--check"):
        done = CliRunner().invoke(app, ["notify", option, "--json", "--root", str(checkout)])
        assert done.exit_code == 1
        assert "channel_seconds" in done.stdout


def test_doctor_says_who_can_be_told_and_who_was_not(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    found = notification(checkout)
    assert f"hook reads {VARIABLE}, which is not set" in found.found
    assert found.remedy
    monkeypatch.setenv(VARIABLE, "http://127.0.0.1:1/")
    assert notification(checkout).remedy == ""
    telling = {"verdict": "failed", "time": NOW, "channels": {"hook": "it answered 404"}}
    night(checkout, "failed", told=[telling])
    found = notification(checkout)
    assert "hook was not told last: it answered 404" in found.found
    assert found.remedy
    (checkout / "params" / "notify.yaml").write_text("channels: 3\n")
    assert notification(checkout).remedy


def test_doctor_tells_the_last_verdicts_age_and_asks_for_more_where_nights_are_expected(
    checkout: Path,
) -> None:
    assert verdict_age(checkout).found.startswith("no night has come to a verdict here")
    night(checkout, "timed_out", ended=datetime.now(UTC) - timedelta(hours=40), told=None)
    found = verdict_age(checkout)
    assert found.found.startswith("timed out, 40 h ago")
    assert (found.remedy, "silence is not told" in found.found) == ("", True)
    (checkout / ".nightloom" / "watch.json").write_text(json.dumps({"since": str(NOW)}))
    found = verdict_age(checkout)
    assert "at most 26 h" in found.found
    assert found.remedy


def test_who_is_told_can_not_be_set_for_one_night(tmp_path: Path) -> None:
    write_params(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no 'notify\.channel_seconds'"):
        read_overrides(tmp_path, None, ["notify.channel_seconds=3.0"])
    assert not apply_overrides({}, "notify", [])


def test_who_is_told_is_no_param_of_a_night_in_mlflow() -> None:
    files = {f"params/{path.name}" for path in Path("params").glob("*.yaml")}
    of_nobody = {"params/notify.yaml", "params/retention.yaml"}
    assert files - set(params_of_nights(Path())) == of_nobody


def test_every_verdict_has_a_row_in_the_guide() -> None:
    guide = Path("docs/guides/notifications.md").read_text()
    assert [name for name in VERDICTS if f"`{name}`" not in guide] == []
