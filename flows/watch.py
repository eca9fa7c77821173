"""The dead man's check: tell that no night has come to a verdict, from outside of the nights.

It needs no server, no worker and no Prefect: a timer of the system runs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ValidationError

from flows.endings import make_notice, notify_endings, read_notify_params
from flows.run_state import NightState, Telling, read_night
from flows.servers import Services
from flows.workspace import STATE, holders
from tasks.orchestration.notify import send_and_tell
from tasks.services import locks
from tasks.stage.outputs import write_atomically

_LOOKED_AT = 50
# A verdict from later than this was written while the clock was wrong.
_CLOCK = timedelta(hours=1)


class Watch(BaseModel):
    """What the check remembers, in `.nightloom/watch.json`.

    `since` is its first look, `told` when it last told of a silence, and `channels` how that went.
    """

    since: datetime
    told: datetime | None = None
    channels: dict[str, str | None] = {}


@dataclass(frozen=True)
class LastVerdict:
    """The newest verdict of a checkout."""

    night: str
    verdict: str
    time: datetime


@dataclass(frozen=True)
class WatchReport:
    """What one look found; `silent`: the last verdict, if any, is too old.

    `endings` were told now, since nobody had, and `problem` is why some could not be; `channels` is
    how telling of the silence went, None where it was not told now.
    """

    silent: bool
    finding: str
    last: LastVerdict | None
    endings: dict[str, Telling]
    problem: str | None
    channels: dict[str, str | None] | None


def check_verdicts(checkout: Path, now: datetime | None = None) -> WatchReport:
    """Tell of endings that nobody was told of, and that there was no verdict for too long.

    A silence is told once, and again each time that it has lasted as long once more.

    Raises:
        ConfigError: params/notify.yaml is wrong.
    """
    now = now or datetime.now(UTC)
    params = read_notify_params(checkout)
    try:
        endings, problem = notify_endings(checkout), None
    except (OSError, locks.LockedError) as error:  # of a full disk: silence is told all the same
        endings, problem = {}, f"endings could not be told: {error}"
    watch, last = _open_watch(checkout, now), last_verdict(checkout, now)
    begun = watch.since if last is None else last.time
    bound = timedelta(hours=params.no_verdict_hours)
    silent = now - begun >= bound
    finding = _finding(last, now, begun)
    channels = None
    if silent and not _was_told(watch, begun, now, bound):
        headline = "; ".join(filter(None, (finding, _cause(checkout), problem)))
        notice = make_notice(
            checkout,
            "no_verdict",
            headline,
            night=last and last.night,
            what_to_do="see `nightloom status` and `nightloom doctor` there",
            log=_log(checkout),
        )
        channels = send_and_tell(notice, params, checkout)
        watch = watch.model_copy(update={"told": now, "channels": channels})
    _write(checkout, watch)
    return WatchReport(silent, finding, last, endings, problem, channels)


def read_watch(checkout: Path) -> Watch | None:
    """Return what the check remembers, None where it has never run or its file is broken."""
    try:
        return Watch.model_validate_json(_path(checkout).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def told_silence(checkout: Path) -> str | None:
    """Return a line on the silence that was told last, None where a verdict came since."""
    watch, now = read_watch(checkout), datetime.now(UTC)
    if watch is None or watch.told is None:
        return None
    last = last_verdict(checkout, now)
    begun = watch.since if last is None else last.time
    if begun >= watch.told:
        return None
    missed = [f"{name} was not reached: {why}" for name, why in watch.channels.items() if why]
    reached = [name for name, why in watch.channels.items() if why is None]
    told = "; ".join([f"told to {', '.join(reached) or 'nobody'}", *missed])
    return f"{_finding(last, now, begun)} ({told})"


def last_verdict(checkout: Path, now: datetime) -> LastVerdict | None:
    """Return the newest verdict that is not of the future, None where there is none."""
    found = [item for item in _verdicts(checkout) if item.time <= now + _CLOCK]
    return max(found, key=lambda item: item.time, default=None)


def hours_between(start: datetime, end: datetime) -> float:
    """Return the hours from one time to another, not less than none."""
    return max((end - start).total_seconds() / 3600, 0.0)


def _verdicts(checkout: Path) -> Iterator[LastVerdict]:
    """Yield the verdicts of the nights that were written last; a broken file has none."""
    paths = sorted(
        (checkout / STATE / "nights").glob("[!.]*.json"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in paths[:_LOOKED_AT]:
        try:
            night = read_night(path)
        except (OSError, ValidationError):
            continue
        if night.verdict is not None:
            yield LastVerdict(night.night, night.told_verdict, _ended(night, path))
        elif night.told:  # its process was killed, which was told
            yield LastVerdict(night.night, night.told[-1].verdict, night.told[-1].time)


def _ended(night: NightState, path: Path) -> datetime:
    """Return when a night ended; one of before 0.3 does not say, and its file was written then."""
    return night.ended or datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _finding(last: LastVerdict | None, now: datetime, begun: datetime) -> str:
    hours = hours_between(begun, now)
    if last is None:
        return f"no night has come to a verdict in the {hours:.0f} h that this is looked at"
    return f"no verdict for {hours:.0f} h: the last one was {last.verdict}, of night {last.night}"


def _cause(checkout: Path) -> str:
    """Return what is known of why there is no verdict."""
    running = holders(checkout)
    if running:
        pids = ", ".join(map(str, running.values()))
        return f"a night runs, and has not ended (process {pids})"
    if Services.read(checkout) is None:
        return "`nightloom up` does not run, so nothing starts nights"
    return "`nightloom up` runs, and no night does: see the runs on Prefect's page"


def _log(checkout: Path) -> str | None:
    path = checkout / STATE / "logs" / "worker.log"
    return str(path) if path.exists() else None


def _was_told(watch: Watch, begun: datetime, now: datetime, bound: timedelta) -> bool:
    """Return whether this silence was told, not longer ago than the bound, by a clock now past."""
    return watch.told is not None and begun < watch.told <= now and now - watch.told < bound


def _open_watch(checkout: Path, now: datetime) -> Watch:
    """Return what the check remembers; its first look is now where it has none, or of later."""
    watch = read_watch(checkout)
    if watch is None:
        return Watch(since=now)
    return watch if watch.since <= now else watch.model_copy(update={"since": now})


def _write(checkout: Path, watch: Watch) -> None:
    path = _path(checkout)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, watch.model_dump_json(indent=1) + "\n")


def _path(checkout: Path) -> Path:
    return checkout / STATE / "watch.json"
