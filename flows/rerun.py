"""Nights that were cut short, or that never began since nothing ran here: one is run instead.

A night is run again once: what ran it again is not run again itself, and no night is that has a
later one in its workspace. A person who wants a night to stay ended cancels it in Prefect.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import StateType

from flows.abandoned import close_abandoned
from flows.endings import tell_run
from flows.environment import open_checkout
from flows.run_state import (
    NightRequest,
    NightState,
    last_nights,
    new_night_name,
    night_file,
    read_night,
    write_night,
)
from flows.servers import TOLD
from flows.shutdown import Keeper
from flows.workspace import find_checkout
from tasks.orchestration.flow_runs import delete_missed, start_deployed, was_cancelled
from tasks.orchestration.reproduce import NightParams
from tasks.stage.errors import NightloomError
from tasks.stage.params import StageParams, load_params

DEPLOYMENT = "nightly/nightly"

_LOOKED_AT = 50  # nights
_WAIT_SECONDS = 5.0  # until the run that was cut short has given back its slot


class _Params(StageParams):
    night: NightParams


def catch_up(checkout: Path, *, missed: bool) -> list[str]:
    """Start one night for those that were interrupted, or `missed`; return a sentence on each.

    Raises:
        ConfigError: params/night.yaml is wrong.
    """
    params = load_params(_Params, [checkout / "params" / "night.yaml"]).night
    keeper = Keeper.last(checkout)
    late = delete_missed("nightly", keeper.started if keeper else time.time()) if missed else []
    told = run_again(checkout, params)
    if told or not late:
        return told
    [last] = [*last_nights(checkout, 1), None][:1]
    if last is not None and last.night >= new_night_name(late[-1]):
        return []
    counted = f"{len(late)} night(s) were missed, the last at {late[-1]:%Y-%m-%d %H:%M} UTC"
    if not params.run_missed:
        return [f"{counted}: the next is the scheduled one, as params/night.yaml says"]
    name = _name()
    _start(None, name)
    return [f"{counted}: one is run now, {name}"]


def run_again(checkout: Path, params: NightParams | None = None) -> list[str]:
    """Start the last night again if it was interrupted; return a sentence on it, or none.

    Raises:
        ConfigError: params/night.yaml is wrong.
    """
    params = params or load_params(_Params, [checkout / "params" / "night.yaml"]).night
    night = interrupted(last_nights(checkout, _LOOKED_AT)) if params.run_again else None
    if night is None or night.request is None:
        return []
    if night.flow_run is not None and was_cancelled(night.flow_run):
        return []
    name = _name()
    path = night_file(checkout, night.night)
    # Before it starts: should this process end now, then it is not started, rather than twice.
    write_night(path, read_night(path).model_copy(update={"again": name}))
    _start(night.request, name)
    return [f"night {night.night} was {night.told_verdict} in {night.step}: run again as {name}"]


def interrupted(nights: Sequence[NightState]) -> NightState | None:
    """Return the newest of `nights`, newest first, that is to be run again; None if none is."""
    again = {night.again for night in nights}
    workspaces = set()
    for night in nights:
        is_last = night.workspace not in workspaces
        workspaces.add(night.workspace)
        if is_last and _was_interrupted(night) and night.night not in again:
            return night
    return None


def _was_interrupted(night: NightState) -> bool:
    """Return whether a worker's night was cut short and was not run again."""
    by_signal = night.error is not None and night.error.kind == "Interrupted"
    cut = night.verdict == "crashed" or (night.verdict == "cancelled" and by_signal)
    return cut and night.request is not None and night.again is None


def _name() -> str:
    return new_night_name(datetime.now(UTC) + timedelta(seconds=_WAIT_SECONDS))


def _start(request: NightRequest | None, name: str) -> None:
    """Let the worker run a night; without a request it is what the schedule's nights are."""
    asked = {} if request is None else request.model_dump()
    start_deployed(
        DEPLOYMENT, f"nightly {name}", {**asked, "night": name}, wait_seconds=_WAIT_SECONDS
    )


def after_crash(flow: Any, flow_run: Any, state: Any) -> None:
    """Close what a night left whose process was killed, tell it, and run it again: Prefect's hook.

    It runs in the worker.
    """
    checkout = find_checkout(Path(str(flow_run.parameters.get("root") or ".")))
    close_abandoned(checkout)
    tell_run(flow, flow_run, state)
    if flow_run.deployment_id is not None and state.type == StateType.CRASHED:
        for line in run_again(checkout):
            print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Close what was abandoned, and catch up; return 0 with a sentence a line on stdout.

    1 with the reason on stderr where that failed.
    """
    parser = argparse.ArgumentParser(prog="python -m flows.rerun", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="a folder of the project")
    options = parser.parse_args(arguments)
    try:
        checkout = open_checkout(options.root)
        told = [*close_abandoned(checkout), *catch_up(checkout, missed=False)]
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("".join(f"{TOLD}{line}\n" for line in told), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
