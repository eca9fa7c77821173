"""The last nights of a checkout: read from their files, and from MLflow what these do not hold."""

import tempfile
from pathlib import Path

from flows.run_state import NightState, last_nights
from flows.workspace import Workspace
from tasks.orchestration.history import PastNight, champion_names, render_history
from tasks.orchestration.night_figures import NightFigures, read_figures
from tasks.orchestration.tracking import Tracker
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import METRICS_FILE
from tasks.stage.outputs import write_atomically

SHOWN = 60

HISTORY_PAGE = "history.html"


def read_history(checkout: Path, stores: Stores, count: int = SHOWN) -> list[PastNight]:
    """Return the last nights, newest first; one that runs now, or was killed, has ended not."""
    tracker = Tracker(stores)
    return [_past(night, tracker) for night in last_nights(checkout, count)]


def write_history(checkout: Path, nights: list[PastNight]) -> Path:
    """Write the page of the nights beside the reports of the checkout; return where."""
    reports = Path(Workspace(checkout, checkout, ()).paths().evaluation_report).parent
    page = checkout / reports / HISTORY_PAGE
    write_atomically(page, render_history(nights))
    return page


def _past(night: NightState, tracker: Tracker) -> PastNight:
    figures = night.figures or _figures_of_before(night, tracker)
    names = ("adapter", "student", "base")
    scores = {name: score for name in names if (score := figures.score(name)) is not None}
    minutes = {entry.name: round(entry.seconds / 60, 2) for entry in night.stages}
    return PastNight(
        night=night.night,
        verdict=night.verdict or "not ended",
        verdicts=figures.verdicts,
        scores=scores,
        metric=figures.metric,
        mode=figures.mode,
        champions=champion_names(night.aliases),
        rows=figures.rows,
        quarantined=figures.quarantined,
        minutes=minutes,
        total_minutes=figures.numbers.get("minutes", sum(minutes.values()) or None),
        mlflow_run=night.mlflow_run,
    )


def _figures_of_before(night: NightState, tracker: Tracker) -> NightFigures:
    """Return the figures of a night that did not keep them, from the reports in its MLflow run."""
    if night.mlflow_run is None:
        return NightFigures()
    with tempfile.TemporaryDirectory(prefix="nightloom-") as folder:
        reports = Path(folder)
        for stage in ("evaluation", "validation"):
            try:
                tracker.download_report(night.mlflow_run, stage, [METRICS_FILE], reports / stage)
            except ConfigError:  # the run was deleted
                return NightFigures()
        return read_figures(reports / "evaluation", reports / "validation")
