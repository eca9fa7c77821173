"""What a night leaves open when its process is killed or the machine goes down: closed, and told.

`nightloom up`, `down` and each night's start do this: the night's file gets its verdict, its runs
in MLflow and Prefect end, and with them the slots that they held.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flows.endings import notify_endings, tell_run_of
from flows.environment import find_stores, open_checkout
from flows.run_state import NightState, abandoned_nights, last_nights, night_file, write_night
from flows.servers import Services, is_foreign_prefect
from flows.shutdown import living_flow_runs, oldest_holder
from flows.workspace import holders
from tasks.orchestration.abandoned_runs import close_runs
from tasks.orchestration.flow_runs import crash_abandoned, runs_of
from tasks.orchestration.mlflow_pages import VERDICT_TAG
from tasks.orchestration.night_page import NightPage, describe_night
from tasks.orchestration.tracking import Tracker
from tasks.services.stores import RunRef, missing_is_fine
from tasks.stage.errors import NightloomError

_LOOKED_AT = 50  # nights
_PENDING_SECONDS = 60.0


def close_abandoned(checkout: Path, *, prefect: bool = True) -> list[str]:
    """Close what nights of this checkout left open; return a sentence on each thing.

    Without `prefect` its flow runs are left to the next night or `up`: no server of it runs.
    """
    nights = abandoned_nights(checkout, _LOOKED_AT)
    told = [_close_night(checkout, night) for night in nights]
    told += _close_mlflow(checkout, nights)
    if prefect and not is_foreign_prefect(checkout):
        told += _close_prefect(checkout)
    notify_endings(checkout)
    return told


def _close_night(checkout: Path, night: NightState) -> str:
    """Write how a night ended into its file."""
    for entry in night.stages:
        if entry.state == "running":
            entry.state = "failed"
    night.ended = datetime.now(UTC)
    write_night(night_file(checkout, night.night), night)
    return f"night {night.night} was cut short in {night.step}: its verdict is crashed"


def _close_mlflow(checkout: Path, nights: Sequence[NightState]) -> list[str]:
    """Close runs, and say of each night's that it crashed."""
    stores = find_stores(checkout)
    runs = {night.mlflow_run: night for night in nights if night.mlflow_run is not None}
    closed = close_runs(stores, runs, idle=oldest_holder(checkout) is None)
    tracker = Tracker(stores) if runs else None
    for run_id, night in runs.items():
        assert tracker is not None
        run = RunRef(tracker.experiment, run_id)
        page = NightPage(night.night, night.told_verdict, run, reasons=[night.headline()])
        with missing_is_fine():  # somebody deleted it
            tracker.tag(run, {VERDICT_TAG: str(night.verdict)})
            tracker.describe(run, describe_night(page))
    return [f"MLflow: the run {name} stayed RUNNING: it is FAILED" for name in closed]


def _close_prefect(checkout: Path) -> list[str]:
    """Close the flow runs that no process runs; those of nights that did not begin are told."""
    running = holders(checkout).values()
    nights = last_nights(checkout, _LOOKED_AT)
    closed = crash_abandoned(
        alive=living_flow_runs() | {str(n.flow_run) for n in nights if n.pid in running},
        ended={night.night for night in nights if night.verdict and night.pid not in running},
        begun_before=oldest_holder(checkout),
        # A worker has just taken one, and has not started its process.
        pending_seconds=_PENDING_SECONDS if Services.read(checkout) else 0.0,
    )
    for run in runs_of("nightly", closed):  # killed while it waited for its process, or imported
        tell_run_of(checkout, run, run.state)
    return [f"Prefect: the run {run.name} stayed open: it is Crashed" for run in closed]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 with what was closed on stdout, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m flows.abandoned", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="a folder of the project")
    options = parser.parse_args(arguments)
    try:
        told = close_abandoned(open_checkout(options.root))
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("\n".join(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
