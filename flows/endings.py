"""Tell the channels how a night ended: once an ending, whoever finds it."""

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.run_state import (
    ErrorEntry,
    NightRequest,
    NightState,
    Telling,
    ended_by,
    error_entry,
    is_interrupt,
    mark_crashed,
    new_night_name,
    night_file,
    read_night,
    write_night,
)
from flows.workspace import STATE, find_checkout, holders
from tasks.orchestration.notify import (
    Always,
    Event,
    ModelNotice,
    Notice,
    NotifyParams,
    Verdict,
    send,
    send_and_tell,
    shown_line,
    tell_failed,
)
from tasks.services import locks
from tasks.services.processes import ChildResult, printed_failure
from tasks.stage.errors import NightloomError
from tasks.stage.params import StageParams, load_params

PARAMS = "params/notify.yaml"

_WAIT_SECONDS = 120.0  # for another process that tells
_LOOKED_AT = 20  # nights whose ending may have been told to nobody
_REFUSED = ": refused by "
_TO_DO = "what to do: "
_STATES: dict[str, Verdict] = {"CANCELLED": "cancelled", "CRASHED": "crashed"}


class _Params(StageParams):
    notify: NotifyParams


def read_notify_params(checkout: Path) -> NotifyParams:
    """Return who is told, which is the same for every night of a checkout.

    Raises:
        ConfigError: params/notify.yaml is wrong.
    """
    return load_params(_Params, [checkout / PARAMS]).notify


def notify_ending(checkout: Path, night: str) -> Telling | None:
    """Tell the channels how a night ended, and keep in its file whom; return what was told.

    None where it runs, was told before, or is of before notifications. A channel that fails is
    part of what is returned; the others are told.

    Raises:
        OSError: what was told can't be kept.
    """
    path = night_file(checkout, night)
    with locks.hold(checkout / STATE / "notify.lock", wait_seconds=_WAIT_SECONDS):
        ended = _ended(path, holders(checkout))
        if ended is None or ended.verdict is None or ended.told is None:
            return None
        if _was_told(ended):
            return None
        notice = ending_notice(checkout, ended)
        try:
            params = read_notify_params(checkout)
        except NightloomError as error:
            outcomes: dict[str, str | None] = {PARAMS: shown_line(error.message)}
            return _keep(path, ended.verdict, outcomes)
        outcomes = send(notice, params, checkout)
        telling = _keep(path, ended.verdict, outcomes)
    tell_failed(outcomes, notice, params, checkout)
    return telling


def notify_endings(checkout: Path) -> dict[str, Telling]:
    """Tell of every night that ended and was told to nobody, as after `kill -9`; return them."""
    running = holders(checkout)
    found: dict[str, Telling] = {}
    paths = sorted((checkout / STATE / "nights").glob("[!.]*.json"), reverse=True)
    for path in reversed(paths[:_LOOKED_AT]):
        night = _ended(path, running)
        if night is None or night.told is None or _was_told(night):
            continue
        if night.pid in running.values():
            continue  # one with a verdict may still write its pages
        telling = notify_ending(checkout, path.stem)
        if telling is not None:
            found[path.stem] = telling
    return found


def tell_run(flow: Any, flow_run: Any, state: Any) -> None:
    """Tell how a flow run ended that may not have come to tell it: Prefect's hook of its end.

    In the run's own process, or in the worker's when that was killed. A run that failed before its
    night began gets a night's file as well.
    """
    checkout = find_checkout(Path(str(flow_run.parameters.get("root") or ".")))
    tell_run_of(checkout, flow_run, state)


def tell_run_of(checkout: Path, flow_run: Any, state: Any) -> None:
    """Tell how a flow run of a checkout ended; one whose night has no file gets one."""
    given = flow_run.parameters
    start = flow_run.expected_start_time or datetime.now(UTC)
    night = str(given.get("night") or new_night_name(start))
    if not night_file(checkout, night).exists():
        # Known in the run's own process alone, and kept by some states in a record.
        ended = getattr(state.data, "result", state.data)
        if isinstance(ended, BaseException) and is_interrupt(ended):
            verdict, error = ended_by(ended), error_entry(ended)
        else:
            verdict = _STATES.get(state.type.value, "failed")
            error = _error_of(state.message or "", verdict)
        write_unbegun(checkout, night, verdict, error, _request(flow_run), str(flow_run.id))
    notify_ending(checkout, night)


def _request(flow_run: Any) -> NightRequest | None:
    """Return what a deployment's flow run was asked for, None of any other run."""
    if flow_run.deployment_id is None:
        return None
    names = NightRequest.model_fields
    given = {name: value for name, value in flow_run.parameters.items() if name in names}
    return NightRequest.model_validate(given)


def write_unbegun(
    checkout: Path,
    night: str,
    verdict: Verdict,
    error: ErrorEntry,
    request: NightRequest | None = None,
    flow_run: str | None = None,
) -> None:
    """Write the file of a night that ended before it began; `request` of one to be run again.

    `flow_run` is the id of its run in Prefect.
    """
    night_file(checkout, night).parent.mkdir(parents=True, exist_ok=True)
    write_night(
        night_file(checkout, night),
        NightState(
            night=night,
            verdict=verdict,
            error=error,
            workspace="",
            step="not begun",
            pid=os.getpid(),
            ended=datetime.now(UTC),
            told=[],
            request=request,
            flow_run=flow_run,
        ),
    )


def _error_of(message: str, verdict: Verdict) -> ErrorEntry:
    """Return the error that the message of a flow run's state tells."""
    lines = tuple(message.splitlines()) or ("no reason was left",)
    failure = printed_failure(ChildResult(1, lines))
    if failure.error == "ProcessError":
        remedy = "see the page of the flow run in Prefect, or the worker's log"
        content = {"class": verdict.capitalize(), "message": lines[0], "remedy": remedy}
    else:
        content = {"class": failure.error, "message": failure.message, "remedy": failure.remedy}
    return ErrorEntry.model_validate(content)


def ending_notice(checkout: Path, night: NightState) -> Notice:
    """Return what is told of a night that ended."""
    assert night.verdict is not None
    headline, to_do = night.headline(), night.error and night.error.remedy
    if night.reasons and not night.models and night.error is None:
        headline = night.reasons[0]
        gate = [reason for reason in night.reasons if reason.startswith(_TO_DO)]
        to_do = gate[0].removeprefix(_TO_DO) if gate else None
    return make_notice(
        checkout,
        night.verdict,
        headline or f"it ended in {night.step}",
        night=night.night,
        models={
            name: ModelNotice(
                verdict=found.verdict,
                headline=shown_line(found.headline),
                version=night.versions.get(name),
            )
            for name, found in sorted(night.models.items())
        },
        first_against=_first_against(night),
        what_to_do=to_do and shown_line(to_do),
        links=night.links,
        log=night_log(checkout, night.night),
    )


def tell_gave_up(checkout: Path, error: NightloomError) -> None:
    """Tell every channel that `up` has stopped, since what it keeps ended too often."""
    notice = make_notice(checkout, "gave_up", error.message, what_to_do=shown_line(error.remedy))
    send_and_tell(notice, read_notify_params(checkout), checkout)


def make_notice(checkout: Path, event: Event | Always, headline: str, **more: Any) -> Notice:
    """Return a notice of this moment, machine and checkout."""
    return Notice(
        event=event,
        headline=shown_line(headline),
        time=datetime.now(UTC).replace(microsecond=0),
        host=socket.gethostname(),
        checkout=str(checkout),
        **more,
    )


def night_log(checkout: Path, night: str) -> str | None:
    """Return the log that holds a night's lines: its own, or the worker's; None without any."""
    logs = checkout / STATE / "logs"
    found = (logs / f"{night}.log", logs / "worker.log")
    return next((str(path) for path in found if path.exists()), None)


def _first_against(night: NightState) -> str | None:
    """Return the first rule that refused a model, with its number and bound."""
    refused = [item for _, item in sorted(night.models.items()) if item.verdict == "refused"]
    reasons = [reason for item in refused for reason in item.reasons]
    found = next((reason for reason in reasons if _REFUSED in reason), None)
    return None if found is None else shown_line(found)


def _ended(path: Path, running: dict[str, int]) -> NightState | None:
    """Return a night that has a verdict, or whose process is gone; None where it can't be read."""
    try:
        night = read_night(path)
    except (OSError, ValidationError):
        return None
    if night.verdict is None:
        if night.pid in running.values() or 0 in running.values():
            return None
        night = read_night(path)  # it may have ended meanwhile
        if night.verdict is None:
            mark_crashed(night)
    return night


def _was_told(night: NightState) -> bool:
    return any(telling.verdict == night.verdict for telling in night.told or [])


def _keep(path: Path, verdict: Verdict, outcomes: dict[str, str | None]) -> Telling:
    """Keep whom an ending was told; a verdict that the file lacks is left to who closes it."""
    telling = Telling(verdict=verdict, time=datetime.now(UTC), channels=outcomes)
    night = read_night(path)
    night.told = [*(night.told or []), telling]
    write_night(path, night)
    return telling
