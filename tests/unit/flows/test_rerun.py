"""A night that was cut short is run again once, and one is run for those that were missed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import rerun
from flows.cli.status import Status, print_status
from flows.console import make_console
from flows.rerun import catch_up, interrupted
from flows.run_state import (
    ErrorEntry,
    NightRequest,
    NightState,
    new_night_name,
    night_file,
    read_night,
    write_night,
)

ASKED = NightRequest(preset="tiny", overrides=["finetuning.epochs=2"])
INTERRUPTED = {"class": "Interrupted", "message": "it was", "remedy": "again"}


def night(hours_ago: float, verdict: Any, **more: Any) -> NightState:
    name = new_night_name(datetime.now(UTC) - timedelta(hours=hours_ago))
    given = {"workspace": "/w", "pid": 1, "request": ASKED, "flow_run": "one"} | more
    return NightState(night=name, verdict=verdict, **given)


def error(kind: str) -> ErrorEntry:
    return ErrorEntry.model_validate(INTERRUPTED | {"class": kind})


@pytest.mark.parametrize(
    ("found", "again"),
    [
        (night(1, "crashed"), True),
        (night(1, "cancelled", error=error("Interrupted")), True),
        (night(1, "cancelled", error=error("Cancelled")), False),  # before it began, by the limit
        (night(1, "failed", error=error("DataError")), False),
        (night(1, "timed_out"), False),
        (night(1, "promoted"), False),
        (night(1, None), False),
        (night(1, "crashed", request=None), False),  # of a shell: whoever started it looks at it
        (night(1, "crashed", again="2026-11-29T033000Z"), False),
    ],
)
def test_only_a_workers_night_that_was_cut_short_is_run_again(
    found: NightState, again: bool
) -> None:
    assert interrupted([found]) == (found if again else None)


def test_what_ran_a_night_again_is_not_run_again_itself() -> None:
    second = night(1, "crashed")
    first = night(2, "crashed", again=second.night)
    assert interrupted([second, first]) is None


def test_a_night_with_a_later_one_in_its_workspace_is_left() -> None:
    old = night(3, "crashed")
    assert interrupted([night(1, "unchanged"), old]) is None
    assert interrupted([night(1, "unchanged", workspace="/other"), old]) == old


class Prefect:
    """What stands in for the server: runs that were missed, cancelled ones, and those started."""

    def __init__(self) -> None:
        self.late: list[datetime] = []
        self.cancelled: set[str] = set()
        self.started: list[dict[str, Any]] = []

    def start(
        self, deployment: str, name: str, parameters: dict[str, Any], *, wait_seconds: float
    ) -> str:
        assert (deployment, name) == ("nightly/nightly", f"nightly {parameters['night']}")
        assert wait_seconds > 0
        self.started.append(parameters)
        return "id"


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Prefect:
    found = Prefect()
    monkeypatch.setattr(rerun, "start_deployed", found.start)
    monkeypatch.setattr(rerun, "was_cancelled", found.cancelled.__contains__)
    monkeypatch.setattr(rerun, "delete_missed", lambda name, since: found.late)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    params = tmp_path / "params" / "night.yaml"
    params.parent.mkdir()
    params.write_text(Path("params/night.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / ".nightloom" / "nights").mkdir(parents=True)
    return tmp_path


def keep(checkout: Path, found: NightState) -> Path:
    path = night_file(checkout, found.night)
    write_night(path, found)
    return path


def switch_off(checkout: Path, key: str) -> None:
    path = checkout / "params" / "night.yaml"
    path.write_text(path.read_text().replace(f"{key}: true", f"{key}: false"))


def test_it_is_run_again_once_as_it_was_asked_for(checkout: Path, prefect: Prefect) -> None:
    path = keep(checkout, night(1, "crashed"))
    [told] = catch_up(checkout, missed=True)
    [asked] = prefect.started
    again = read_night(path).again
    assert asked == ASKED.model_dump() | {"night": again}
    assert again is not None
    assert again in told
    assert again > path.stem
    assert catch_up(checkout, missed=True) == []
    keep(checkout, night(-0.01, "crashed").model_copy(update={"night": again}))
    assert catch_up(checkout, missed=True) == []
    assert len(prefect.started) == 1


def test_neither_params_nor_a_person_who_cancelled_it_are_overruled(
    checkout: Path, prefect: Prefect
) -> None:
    path = keep(checkout, night(1, "cancelled", error=error("Interrupted")))
    prefect.cancelled.add("one")
    assert catch_up(checkout, missed=True) == []
    prefect.cancelled.clear()
    switch_off(checkout, "run_again")
    assert catch_up(checkout, missed=True) == []
    assert (prefect.started, read_night(path).again) == ([], None)


def test_however_many_nights_were_missed_one_is_run(checkout: Path, prefect: Prefect) -> None:
    now = datetime.now(UTC)
    prefect.late = [now - timedelta(days=days) for days in (3, 2, 1)]
    keep(checkout, night(80, "promoted"))
    [told] = catch_up(checkout, missed=True)
    assert told.startswith("3 night(s) were missed")
    [asked] = prefect.started
    assert set(asked) == {"night"}  # what the schedule's nights are asked for


def test_a_missed_night_is_not_run_where_one_was_run_since_or_params_say_no(
    checkout: Path, prefect: Prefect
) -> None:
    prefect.late = [datetime.now(UTC) - timedelta(hours=5)]
    keep(checkout, night(1, "promoted"))
    assert catch_up(checkout, missed=True) == []
    night_file(checkout, night(1, "promoted").night)
    for path in (checkout / ".nightloom" / "nights").iterdir():
        path.unlink()
    switch_off(checkout, "run_missed")
    [told] = catch_up(checkout, missed=True)
    assert "the next is the scheduled one" in told
    assert prefect.started == []


def test_an_interrupted_night_stands_for_the_missed_ones(checkout: Path, prefect: Prefect) -> None:
    prefect.late = [datetime.now(UTC) - timedelta(hours=5)]
    keep(checkout, night(30, "crashed"))
    assert len(catch_up(checkout, missed=True)) == 1
    assert len(prefect.started) == 1


def test_status_shows_which_night_ran_it_again() -> None:
    console = make_console(to_stderr=False)
    found = night(2, "crashed", step="finetuning", again="2026-11-29T033000Z")
    with console.capture() as captured:
        print_status(console, Status([found], {}, {}, [], None, None, {}, None))
    assert f"{found.night} was run again as 2026-11-29T033000Z" in captured.get()
