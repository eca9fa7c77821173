"""What a night shows in Prefect and MLflow: curves, pages, and the verdict at its end."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.mlflow_pages import artifact_page, run_page
from tasks.orchestration.tracking import Point, Tracker
from tasks.services.stores import RunRef
from tasks.stage.metrics import CurveFollower
from tasks.stage.pages import plain_markdown

_REPORT_FILE = "report.md"


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
    pages = {name: page for name, page in _PAGES.items() if (folder / name).exists()}
    if not pages:
        return
    places = {name: artifact_page(run, f"{artifact_folder}/{name}") for name in pages}
    links = [f"[{page.title}]({places[name]})" for name, page in pages.items()]
    tracker.describe(run, f"Pages: {', '.join(links)}.")
    for name, page in pages.items():
        _link(f"{stage}-{page.slug}", page.title, tracker.link(places[name]), run, folder / name)
    report = folder / _REPORT_FILE
    if report.exists():
        text = report.read_text(encoding="utf-8")
        for name in pages:
            text = _relinked(text, name, tracker.link(places[name]))
        create_markdown_artifact(
            markdown=plain_markdown(text),
            key=f"{stage}-report",
            description=f"MLflow run {run.run_id}",
        )


def _relinked(text: str, name: str, link: str | None) -> str:
    """Return Markdown whose links to a file lead to an address; without any, they become words."""
    if link is not None:
        return text.replace(f"]({name})", f"]({link})")
    return re.sub(rf"\[([^\]]*)\]\({re.escape(name)}\)", rf"\1 (`{name}`)", text)


def _link(key: str, title: str, link: str | None, run: RunRef, file: Path) -> None:
    """Link a page from the Prefect run; where no server shows it, say in words which would.

    A browser opens no `file:` address from a served page.
    """
    description = f"MLflow run {run.run_id}"
    if link is not None:
        create_link_artifact(link=link, link_text=title, key=key, description=description)
        return
    text = (
        f"{title}: no MLflow server was up. `nightloom up` starts one, whose page of run "
        f"`{run.run_id}` shows it; the file is `{file.resolve()}`."
    )
    create_markdown_artifact(markdown=text, key=key, description=description)


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


def _where(run: RunRef, tracker: Tracker) -> str:
    """Return where MLflow shows a night, in Markdown; without a server, which command does."""
    link = tracker.link(run_page(run))
    if link is not None:
        return f"[the night in MLflow]({link})"
    return f"MLflow run `{run.run_id}`; no MLflow server was up: `nightloom up` starts one"


@task(cache_policy=NO_CACHE, persist_result=False)
def show_verdict(
    night: str,
    told: tuple[str, str],
    reasons: Sequence[str],
    stages: Mapping[str, str],
    run: RunRef,
    tracker: Tracker,
    level: Literal["info", "warning", "error"],
) -> None:
    """Show in Prefect what was `told`, a verdict and a headline, and what each stage did."""
    verdict, headline = told
    rows = [f"| {name} | {state} |" for name, state in stages.items()]
    lines = [f"# {night}: {verdict}", "", headline, "", *(f"- {reason}" for reason in reasons), ""]
    if rows:
        lines += ["| stage | state |", "|---|---|", *rows, ""]
    lines += [_where(run, tracker)]
    text = plain_markdown("\n".join(lines))
    create_markdown_artifact(text, key="night", description=f"{night}: {verdict}")
    getattr(get_run_logger(), level)("%s: %s: %s", night, verdict, headline)
