"""MLflow runs: one parent a night, one child a stage, by explicit run ids only."""

import getpass
import json
import logging
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.git_utils import get_git_commit
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from tasks.orchestration import mlflow_pages
from tasks.orchestration.run_content import (
    TABLE_FILE,
    metric_name,
    numbers,
    param_name,
    param_values,
    split_table,
)
from tasks.orchestration.stages import Stage
from tasks.records.predictions import BATCH_TIMES, PREDICTIONS_FILE
from tasks.services import run_tags
from tasks.services.processes import process_tag
from tasks.services.stores import (
    EXPERIMENT,
    RunRef,
    Stores,
    made_once,
    missing_is_fine,
    open_experiment,
    retrying_client,
)
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.pages import plain_markdown

NOTES_FILE = "nightloom.json"  # what code needs of a run and does not search by

# Where runs of before 2026-11-29 say which run made a stage's outs: tags OLD_LINK_TAG.STAGE.
OLD_LINK_TAG = "nightloom.run"

_RUN_ID = re.compile(r"[0-9a-f]{32}")

_BATCH = 100

# MLflow refuses longer digests than 36.
_DIGEST_CHARACTERS = 32

_NOTE_CHARACTERS = 8000  # of a tag, as MLflow bounds them


@dataclass(frozen=True)
class Point:
    """One line of a stage's `curves.jsonl`."""

    name: str
    value: float
    step: int
    timestamp_ms: int


@dataclass(frozen=True)
class DataSet:
    """Data that a run read: what MLflow shows of it. `context` is training, validation, ...

    `rows` counts what is in it, by kind.
    """

    name: str
    digest: str
    place: str
    context: str
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Kept:
    """What a night's run says of what it was made from; a run of before may not know it all."""

    params: Mapping[str, str]
    rows: int | None
    commit: str | None


def source_tags(checkout: Path, file: str) -> dict[str, str]:
    """Return the tags by which MLflow shows a run's source: a flow's file, and the git commit."""
    commit = get_git_commit(str(checkout))
    tags = {MLFLOW_SOURCE_NAME: file, MLFLOW_SOURCE_TYPE: "LOCAL"}
    return tags if commit is None else {**tags, MLFLOW_GIT_COMMIT: commit}


def is_run_id(text: str) -> bool:
    """Return whether a text has the form of a run's id."""
    return _RUN_ID.fullmatch(text) is not None


class Tracker:
    """Writes the runs of nights into one MLflow store."""

    def __init__(self, stores: Stores) -> None:
        """Open the store and its experiment, made where it is missing."""
        self._client = retrying_client(MlflowClient, stores.tracking_uri)
        self._experiment = open_experiment(self._client, EXPERIMENT, stores.location)

    def begin_night(self, night: str, tags: Mapping[str, str]) -> RunRef:
        """Begin the parent run of a night."""
        self._describe_experiment()
        return self._begin(night, {run_tags.NIGHT: night} | dict(tags))

    def begin_sweep(self, name: str, study: str) -> RunRef:
        """Begin the parent run of a sweep: the one that its study already has, else a new one."""
        return self._reopened(study) or self._begin(name, {run_tags.KEY: study})

    def begin_trial(self, parent: RunRef, name: str, values: Mapping[str, object]) -> RunRef:
        """Begin the child run of a sweep's trial, with the values that it tries."""
        run = self._begin(name, {run_tags.PARENT: parent.run_id})
        params = [Param(param_name([key]), str(value)) for key, value in values.items()]
        self._client.log_batch(run.run_id, params=params)
        return run

    def begin_judge(self, parent: RunRef, name: str) -> RunRef:
        """Begin a child run of a night for what an LLM judge found."""
        return self._begin(name, {run_tags.PARENT: parent.run_id})

    def begin_stage(self, parent: RunRef, stage: Stage) -> RunRef:
        """Begin the child run of a stage: the one that its key already has, else a new one."""
        tags = {
            run_tags.PARENT: parent.run_id,
            run_tags.KEY: stage.key,
            MLFLOW_SOURCE_NAME: stage.command,
            MLFLOW_SOURCE_TYPE: "LOCAL",
        }
        run = self._reopened(stage.key) or self._begin(stage.name, tags)
        self.note(parent, stages={stage.name: run.run_id})
        return run

    def link_stage(self, parent: RunRef, stage: Stage) -> None:
        """Link a night to the run that made what a skipped stage would have made."""
        found = self._tagged(run_tags.KEY, stage.key)
        made = found.info.run_id if found else "made outside of a night"
        self.note(parent, stages={stage.name: made})

    @contextmanager
    def system_metrics(self, run: RunRef) -> Iterator[None]:
        """Log CPU, memory, disk and GPU of the machine, every five seconds of the block."""
        # Its monitor writes four lines a stage on a night's console.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        uri = self._client.tracking_uri
        monitor = SystemMetricsMonitor(
            run.run_id, sampling_interval=5, resume_logging=True, tracking_uri=uri
        )
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def log_params(self, run: RunRef, root: Path, files: Iterable[str]) -> None:
        """Log the values of params files; names are FILE.KEY."""
        params = [Param(name, value) for name, value in param_values(root, files).items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(run.run_id, params=params[start : start + _BATCH])

    def log_inputs(self, run: RunRef, inputs: Iterable[DataSet]) -> None:
        """Log data that a run read as its dataset inputs."""
        found = [
            DatasetInput(
                Dataset(
                    name=one.name,
                    digest=one.digest[:_DIGEST_CHARACTERS],
                    source_type="local",
                    source=json.dumps({"uri": one.place}),
                    profile=json.dumps(dict(one.rows)) if one.rows else None,
                ),
                [InputTag(MLFLOW_DATASET_CONTEXT, one.context)],
            )
            for one in inputs
        ]
        if found:
            self._client.log_inputs(run.run_id, datasets=found)

    def log_points(self, run: RunRef, points: Iterable[Point]) -> None:
        """Log points of curves; logging one twice changes nothing that is shown."""
        metrics = [Metric(p.name, p.value, p.timestamp_ms, p.step) for p in points]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run.run_id, metrics=metrics[start : start + _BATCH])

    def log_numbers(self, run: RunRef, values: Mapping[str, float]) -> None:
        """Log numbers under the names that they have."""
        now = time.time_ns() // 1_000_000
        self.log_points(run, [Point(name, value, 0, now) for name, value in values.items()])

    def log_metrics(self, run: RunRef, report: Path) -> None:
        """Log the numbers of a report's `metrics.json`, as `metric_name` names them.

        Without the times that batches gave, which runs can't be compared by.
        """
        if not (report / METRICS_FILE).exists():
            return
        found = numbers(read_metrics(report))
        kept = [item for item in found if not item[0][-1].startswith(BATCH_TIMES)]
        self.log_numbers(run, {metric_name(path): value for path, value in kept})

    def log_predictions(self, run: RunRef, report: Path) -> None:
        """Log a report's predictions as the table by which MLflow's pages compare runs.

        In the form of `MlflowClient.log_table`, which would append: published twice it is the same.
        """
        if not (report / PREDICTIONS_FILE).exists():
            return
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / TABLE_FILE
            table.write_text(split_table(report / PREDICTIONS_FILE), encoding="utf-8")
            self._client.log_artifact(run.run_id, str(table))
        entry = {"path": TABLE_FILE, "type": "table"}
        tags = self._client.get_run(run.run_id).data.tags
        entries = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if entry not in entries:
            tag = json.dumps([*entries, entry])
            self._client.set_tag(run.run_id, MLFLOW_LOGGED_ARTIFACTS, tag)

    def night_run(self, night: str) -> str | None:
        """Return the id of a night's newest run, None if there is no such night."""
        found = self._tagged(run_tags.NIGHT, night)
        return found.info.run_id if found else None

    def nights(self, count: int) -> list[str]:
        """Return the names of the last nights, newest first."""
        found = self._client.search_runs(
            [self._experiment], f"tags.`{run_tags.NIGHT}` != ''", max_results=count
        )
        return [run.data.tags[run_tags.NIGHT] for run in found]

    def download_report(self, run_id: str, name: str, files: Sequence[str], target: Path) -> bool:
        """Return whether a run, or the stage's run that it links to, has a report; its files in
        `target`.

        Raises:
            ConfigError: there is no such run.
        """
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            raise ConfigError(
                f"MLflow has no run {run_id}", "copy the id from MLflow's page of the run"
            ) from error
        stages = self.notes(run_id).get("stages", {})
        stage = stages.get(name) or run.data.tags.get(f"{OLD_LINK_TAG}.{name}", "")
        places = [(run_id, f"reports/{name}"), (run_id, name), (stage, name)]
        for place, folder in places:
            if is_run_id(place) and self._holds(place, folder, files):
                target.mkdir(parents=True)
                for file in files:
                    found = self._client.download_artifacts(place, f"{folder}/{file}")
                    shutil.copyfile(found, target / file)
                return True
        return False

    def _holds(self, run_id: str, folder: str | None, files: Sequence[str]) -> bool:
        there = {item.path for item in self._client.list_artifacts(run_id, folder)}
        return {f"{folder}/{file}" if folder else file for file in files} <= there

    def log_files(self, run: RunRef, paths: Iterable[Path], folder: str | None = None) -> None:
        """Log files and whole folders, those that exist, as artifacts."""
        for path in paths:
            if path.is_dir():
                name = path.name if folder is None else f"{folder}/{path.name}"
                self._client.log_artifacts(run.run_id, str(path), name)
            elif path.exists():
                self._client.log_artifact(run.run_id, str(path), folder)

    def link(self, page: str) -> str | None:
        """Return the address of a page of MLflow's (`mlflow_pages`), None where no server is."""
        uri = self._client.tracking_uri
        return f"{uri.rstrip('/')}/{page}" if uri.startswith("http") else None

    @property
    def experiment(self) -> str:
        """Return the id of the experiment that holds the nights."""
        return self._experiment

    def describe(self, run: RunRef, text: str) -> None:
        """Set the description of a run, in Markdown."""
        self.tag(run, {MLFLOW_RUN_NOTE: plain_markdown(text)[:_NOTE_CHARACTERS]})

    def note(self, run: RunRef, **values: Any) -> None:
        """Add what code needs of a run and does not search by; mappings are added to."""
        before = self.notes(run.run_id)
        for name, value in values.items():
            held = before.get(name)
            both = isinstance(held, dict) and isinstance(value, dict)
            before[name] = held | value if both else value
        self._client.log_dict(run.run_id, before, NOTES_FILE)

    def notes(self, run_id: str) -> dict[str, Any]:
        """Return what was noted of a run; nothing of one that nothing was noted of."""
        if not self._holds(run_id, None, [NOTES_FILE]):
            return {}
        found: dict[str, Any] = json.loads(
            Path(self._client.download_artifacts(run_id, NOTES_FILE)).read_text(encoding="utf-8")
        )
        return found

    def kept(self, run_id: str) -> Kept | None:
        """Return what a night's run keeps to be compared by, None if it is not there any more."""
        if not is_run_id(run_id):
            return None
        found: list[Run] = []
        with missing_is_fine():
            found.append(self._client.get_run(run_id))
        if not found:
            return None
        data = found[0].data
        rows = data.metrics.get("rows")
        return Kept(
            params=data.params,
            rows=None if rows is None else round(rows),
            commit=data.tags.get(MLFLOW_GIT_COMMIT),
        )

    def tag(self, run: RunRef, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        for name, value in tags.items():
            self._client.set_tag(run.run_id, name, value)

    def end(self, run: RunRef, *, finished: bool) -> None:
        """Close a run as finished or failed."""
        self._client.set_terminated(run.run_id, "FINISHED" if finished else "FAILED")

    def stop(self, run: RunRef) -> None:
        """Close a run that was stopped on purpose, which is no failure."""
        self._client.set_terminated(run.run_id, "KILLED")

    def stop_trial(self, parent: RunRef, name: str) -> None:
        """Close the run of a sweep's trial that a kill left open."""
        of_parent = f"tags.`{run_tags.PARENT}` = '{parent.run_id}'"
        for run in self._client.search_runs(
            [self._experiment], f"{of_parent} and attributes.run_name = '{name}'"
        ):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _reopened(self, key: str) -> RunRef | None:
        """Return the run that a key already has, running again."""
        found = self._tagged(run_tags.KEY, key)
        if found is None:
            return None
        # First, lest it is taken for one of a process that is gone.
        self._client.set_tag(found.info.run_id, run_tags.PROCESS, process_tag())
        self._client.update_run(found.info.run_id, status="RUNNING")
        return RunRef(self._experiment, found.info.run_id)

    def _begin(self, name: str, tags: Mapping[str, str]) -> RunRef:
        begun = uuid.uuid4().hex
        own = {MLFLOW_USER: getpass.getuser(), run_tags.PROCESS: process_tag()}
        run = made_once(
            lambda: self._tagged(run_tags.BEGUN, begun),
            lambda: self._client.create_run(
                self._experiment,
                run_name=name,
                tags={**own, **tags, run_tags.BEGUN: begun},
            ),
            self._client.tracking_uri,
        )
        with missing_is_fine():
            self._client.delete_tag(run.info.run_id, run_tags.BEGUN)
        return RunRef(self._experiment, run.info.run_id)

    def _tagged(self, tag: str, value: str) -> Run | None:
        """Return the newest run that has a tag of a value."""
        found = self._client.search_runs(
            [self._experiment], f"tags.`{tag}` = '{value}'", max_results=1
        )
        return found[0] if found else None

    def _describe_experiment(self) -> None:
        """Describe the experiment, and keep in it the view of nights that links open."""
        for name, text in mlflow_pages.experiment_tags().items():
            self._client.set_experiment_tag(self._experiment, name, text)
