"""What a night shows in Prefect and MLflow: curves, pages, and the verdict at its end."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.tracking import Point, Tracker
from tasks.services.stores import RunRef
from tasks.stage.metrics import CurveFollower

_REPORT_FILE = "report.md"

_NOTE_TAG = "mlflow.note.content"  # what MLflow's page of a run shows as its description


@dataclass(frozen=True)
class _Page:
    """A file that a browser opens: what it is called, and its name in tags and keys."""

    title: str
    slug: str


_PAGES = {
    "data_docs.html": _Page("Data Docs", "data-docs"),
    "report.html": _Page("Report", "page"),
}


def link_pages(
    stage: str, folder: Path, artifact_folder: str, run: RunRef, tracker: Tracker
) -> None:
    """Link a folder's pages, where it has some, from the MLflow run and the Prefect run.

    The folder's files are artifacts of the MLflow run already, below `artifact_folder`. The Prefect
    run gets the report as well, which is Markdown.
    """
    links = {
        name: _link(stage, folder / name, f"{artifact_folder}/{name}", page, run, tracker)
        for name, page in _PAGES.items()
        if (folder / name).exists()
    }
    report = folder / _REPORT_FILE
    if links and report.exists():
        text = report.read_text(encoding="utf-8")
        for name, link in links.items():
            text = text.replace(f"]({name})", f"]({link})")
        create_markdown_artifact(
            markdown=text, key=f"{stage}-report", description=f"MLflow run {run.run_id}"
        )


def _link(stage: str, path: Path, artifact: str, page: _Page, run: RunRef, tracker: Tracker) -> str:
    """Link a page from both runs, and return where it is shown."""
    link = tracker.artifact_link(run, artifact) or path.resolve().as_uri()
    note = f"{page.title}: artifact `{artifact}` of this run ([open]({link}))"
    tracker.tag(run, {f"nightloom.{page.slug.replace('-', '_')}": artifact, _NOTE_TAG: note})
    create_link_artifact(
        link=link,
        link_text=page.title,
        key=f"{stage}-{page.slug}",
        description=f"MLflow run {run.run_id}, artifact {artifact}",
    )
    return link


class CurvePublisher:
    """A thread that hands new points of a stage's curves to `publish`, until the block ends.

    Points that lay there before were published when they were made.
    """

    def __init__(
        self,
        scratch: Path,
        publish: Callable[[list[Point]], None],
        warn: Callable[[str], None],
        *,
        interval_seconds: float = 2.0,
    ) -> None:
        self._curves = CurveFollower(scratch, skip_present=True)
        self._publish = publish
        self._warn = warn
        self._interval = interval_seconds
        self._unpublished: list[Point] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="curves", daemon=True)

    def __enter__(self) -> "CurvePublisher":
        """Start to publish."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Publish what is left; what can't be published is an error unless there is one already."""
        self._stop.set()
        self._thread.join()
        if kind is None:
            self._publish_new()

    def _follow(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._publish_new()
            except Exception as failure:  # noqa: BLE001  the last call, in __exit__, raises it
                self._warn(f"curves not published, trying again: {failure}")

    def _publish_new(self) -> None:
        self._unpublished += [
            Point(row["name"], row["value"], row["step"], row["timestamp_ms"])
            for row in self._curves.new_points()
        ]
        self._publish(self._unpublished)
        self._unpublished = []


@task(cache_policy=NO_CACHE, persist_result=False)
def notify(
    night: str,
    told: tuple[str, str],
    reasons: Sequence[str],
    stages: Mapping[str, str],
    mlflow_run: str,
    level: Literal["info", "warning", "error"],
) -> None:
    """Show in Prefect what was `told`, a verdict and a headline, and what each stage did."""
    verdict, headline = told
    rows = [f"| {name} | {state} |" for name, state in stages.items()]
    lines = [f"# {night}: {verdict}", "", headline, "", *(f"- {reason}" for reason in reasons), ""]
    if rows:
        lines += ["| stage | state |", "|---|---|", *rows, ""]
    lines += [f"MLflow run `{mlflow_run}`"]
    create_markdown_artifact("\n".join(lines), key="night", description=f"{night}: {verdict}")
    getattr(get_run_logger(), level)("%s: %s: %s", night, verdict, headline)
