"""MLflow's own pages: their addresses below a server, and the columns of its table of nights.

The columns can't stand in an address. MLflow's "Share" button keeps them in a tag of the
experiment, whose name the address then ends in (MLflow 3.17: `mlflow.sharedViewState.KEY` and
`?viewStateShareKey=KEY`), and so do we.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote

from tasks.services import run_tags
from tasks.services.stores import RunRef

# The tag of a night's run by which people read it; beside it is one by the name of each model.
VERDICT_TAG = "verdict"

_VIEW = "nights"

# MLflow's table shows attributes first, then metrics, then tags: few of each, so that the verdicts
# stand on one screen.
_COLUMNS = (
    "attributes.`Created`",
    "metrics.`adapter.f1`",
    "metrics.`student.f1`",
    "metrics.`adapter.accuracy`",
    "metrics.`student.accuracy`",
    "metrics.`adapter.rouge_l`",
    "metrics.`student.rouge_l`",
    "tags.`verdict`",
    "tags.`adapter`",
    "tags.`student`",
)

_DESCRIPTION = """The nights of Nightloom: one run a night, with one child a stage.

A night's description says what was decided and why. Its few metrics are those that nights are
compared by; all other numbers, curves and reports are on the runs of its stages. Mark two nights
and press *Compare* to see what differs."""


def experiment_tags() -> dict[str, str]:
    """Return the tags of the experiment: its description, and its view of the nights."""
    state = {
        "searchFilter": f"tags.`{run_tags.NIGHT}` != ''",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(_COLUMNS),
    }
    return {
        "mlflow.note.content": _DESCRIPTION,
        f"mlflow.sharedViewState.{_VIEW}": json.dumps(state),
    }


def nights_page(experiment: str) -> str:
    """Return the page of all nights, with the columns that they are compared by."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={_VIEW}"


def run_page(run: RunRef) -> str:
    """Return the page of a run."""
    return f"#/experiments/{run.experiment_id}/runs/{run.run_id}"


def artifact_page(run: RunRef, path: str) -> str:
    """Return the page that shows an artifact of a run."""
    return f"{run_page(run)}/artifacts/{quote(path)}"


def version_page(name: str, number: int) -> str:
    """Return the page of a registered version."""
    return f"#/models/{quote(name)}/versions/{number}"


def comparison_page(experiment: str, runs: Sequence[str]) -> str:
    """Return the page that lays runs, by their ids, side by side."""
    ids, experiments = json.dumps(list(runs)), json.dumps([experiment])
    return f"#/compare-runs?runs={quote(ids)}&experiments={quote(experiments)}"
