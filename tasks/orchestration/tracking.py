"""MLflow runs: one parent a night, one child a stage, by explicit run ids only."""

import hashlib
import json
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

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS
from pyarrow import parquet

from tasks.orchestration.stages import Dependency, Stage
from tasks.records.predictions import BATCH_TIMES, PREDICTIONS_FILE
from tasks.services.stores import (
    EXPERIMENT,
    RunRef,
    Stores,
    made_once,
    open_experiment,
    retrying_client,
)
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import METRICS_FILE, leaves, read_metrics
from tasks.stage.params import read_yaml

_ALLOWED = frozenset("_-. ")

# MLflow's own limit for a key.
_CHARACTERS = 250

_DIGEST = 16


def numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield each number in nested metrics with the keys that lead to it; booleans are none."""
    for path, value in leaves(metrics):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield path, float(value)


def metric_name(path: Sequence[str]) -> str:
    """Return the name of the metric that keys lead to, joined by slashes.

    MLflow allows letters and digits of any script, `_-. :/` and no key that reads as a path to
    elsewhere. Keys come from data too (a slice is a label), so what is not allowed is written as
    `:HEX:`, its code point, an empty key as `:`, and a name that is too long ends in `:` and its
    digest. Different keys have different names.
    """
    name = "/".join(map(_segment, path))
    if len(name) <= _CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{name[: _CHARACTERS - _DIGEST - 1].rstrip('/')}:{digest}"


def _segment(key: str) -> str:
    """Return one key, which can't be empty, `.` or `..`, or hold a slash, in the name."""
    if set(key) == {"."}:
        return "".join(map(_escaped, key))
    return "".join(c if c.isalnum() or c in _ALLOWED else _escaped(c) for c in key) or ":"


def _escaped(character: str) -> str:
    return f":{ord(character):x}:"


# What MLflow's pages call the table.
TABLE_FILE = "answers.json"

_NOT_IN_TABLE = ("prompt_sha256", *BATCH_TIMES)


def split_table(predictions: Path) -> str:
    """Return predictions as pandas' `split` JSON, without what people can't read or misread."""
    found = parquet.read_table(predictions)
    rows = found.drop_columns([name for name in _NOT_IN_TABLE if name in found.column_names])
    columns = rows.to_pydict()
    columns["retrieved"] = ["\n".join(names) for names in columns["retrieved"]]
    # MLflow's pages group by the first column: by system alone, one answer of many would show.
    keys = zip(columns["system"], columns["mode"], columns["record"], strict=True)
    columns = {"answer": [" / ".join(key) for key in keys]} | columns
    data = [list(row) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False)


KEY_TAG = "nightloom.key"

_PARENT_TAG = "mlflow.parentRunId"

_NIGHT_TAG = "nightloom.night"

_LINK_TAG = "nightloom.run"

_BEGUN_TAG = "nightloom.begun"

_RUN_ID = re.compile(r"[0-9a-f]{32}")

_BATCH = 100

_PARAM_CHARACTERS = 6000


@dataclass(frozen=True)
class Point:
    """One line of a stage's `curves.jsonl`."""

    name: str
    value: float
    step: int
    timestamp_ms: int


class Tracker:
    """Writes the runs of nights into one MLflow store."""

    def __init__(self, stores: Stores) -> None:
        """Open the store and its experiment, made where it is missing."""
        self._client = retrying_client(MlflowClient, stores.tracking_uri)
        self._experiment = open_experiment(self._client, EXPERIMENT, stores.artifacts)

    def begin_night(self, night: str, tags: Mapping[str, str]) -> RunRef:
        """Begin the parent run of a night."""
        return self._begin(night, {_NIGHT_TAG: night} | dict(tags))

    def begin_sweep(self, name: str, study: str) -> RunRef:
        """Begin the parent run of a sweep: the one that its study already has, else a new one."""
        return self._reopened(study) or self._begin(name, {KEY_TAG: study})

    def begin_trial(self, parent: RunRef, name: str, values: Mapping[str, object]) -> RunRef:
        """Begin the child run of a sweep's trial, with the values that it tries."""
        run = self._begin(name, {_PARENT_TAG: parent.run_id})
        params = [Param(key, str(value)) for key, value in values.items()]
        self._client.log_batch(run.run_id, params=params)
        return run

    def begin_judge(self, parent: RunRef, system: str) -> RunRef:
        """Begin the child run of a night for an LLM judge's verdicts on a system's answers."""
        tags = {_PARENT_TAG: parent.run_id, "nightloom.judged": system}
        return self._begin(f"judge of {system}", tags)

    def begin_stage(self, parent: RunRef, stage: Stage) -> RunRef:
        """Begin the child run of a stage: the one that its key already has, else a new one."""
        tags = {_PARENT_TAG: parent.run_id, KEY_TAG: stage.key, "nightloom.stage": stage.name}
        run = self._reopened(stage.key) or self._begin(stage.name, tags)
        self._link(parent, stage.name, run.run_id)
        return run

    def link_stage(self, parent: RunRef, stage: Stage) -> None:
        """Link a night to the run that made what a skipped stage would have made."""
        found = self._find(stage.key)
        self._link(parent, stage.name, found.info.run_id if found else "made outside of a night")

    @contextmanager
    def system_metrics(self, run: RunRef) -> Iterator[None]:
        """Log CPU, memory, disk and GPU of the machine, every five seconds of the block."""
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
        values: dict[str, Any] = {}
        for file in files:
            for path, value in leaves(read_yaml(root / file)):
                values[".".join((Path(file).stem, *map(str, path)))] = value
        params = [Param(name, _text(value)) for name, value in values.items()]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(run.run_id, params=params[start : start + _BATCH])

    def log_inputs(self, run: RunRef, dependencies: Iterable[Dependency]) -> None:
        """Log data that a run read as dataset inputs, by path and DVC digest."""
        inputs = [
            DatasetInput(
                Dataset(
                    name=dependency.path,
                    digest=dependency.digest[:32],
                    source_type="local",
                    source=json.dumps({"uri": dependency.path}),
                ),
                [InputTag("mlflow.data.context", "input")],
            )
            for dependency in dependencies
        ]
        if inputs:
            self._client.log_inputs(run.run_id, datasets=inputs)

    def log_points(self, run: RunRef, points: Iterable[Point]) -> None:
        """Log points of curves; logging one twice changes nothing that is shown."""
        metrics = [Metric(p.name, p.value, p.timestamp_ms, p.step) for p in points]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run.run_id, metrics=metrics[start : start + _BATCH])

    def log_metrics(self, run: RunRef, report: Path) -> None:
        """Log the numbers of a report's `metrics.json`, as `metric_name` names them.

        Without the times that batches gave, which runs can't be compared by.
        """
        if not (report / METRICS_FILE).exists():
            return
        now = time.time_ns() // 1_000_000
        found = numbers(read_metrics(report))
        points = [
            Point(metric_name(path), value, 0, now)
            for path, value in found
            if not path[-1].startswith(BATCH_TIMES)
        ]
        self.log_points(run, points)

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
        found = self._tagged(_NIGHT_TAG, night)
        return found.info.run_id if found else None

    def nights(self, count: int) -> list[str]:
        """Return the names of the last nights, newest first."""
        found = self._client.search_runs(
            [self._experiment], f"tags.`{_NIGHT_TAG}` != ''", max_results=count
        )
        return [run.data.tags[_NIGHT_TAG] for run in found]

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
        stage = run.data.tags.get(f"{_LINK_TAG}.{name}", "")
        places = [(run_id, f"reports/{name}"), (run_id, name), (stage, name)]
        for place, folder in places:
            if _RUN_ID.fullmatch(place) and self._holds(place, folder, files):
                target.mkdir(parents=True)
                for file in files:
                    found = self._client.download_artifacts(place, f"{folder}/{file}")
                    shutil.copyfile(found, target / file)
                return True
        return False

    def _holds(self, run_id: str, folder: str, files: Sequence[str]) -> bool:
        there = {item.path for item in self._client.list_artifacts(run_id, folder)}
        return {f"{folder}/{file}" for file in files} <= there

    def log_files(self, run: RunRef, paths: Iterable[Path], folder: str | None = None) -> None:
        """Log files and whole folders, those that exist, as artifacts."""
        for path in paths:
            if path.is_dir():
                name = path.name if folder is None else f"{folder}/{path.name}"
                self._client.log_artifacts(run.run_id, str(path), name)
            elif path.exists():
                self._client.log_artifact(run.run_id, str(path), folder)

    def artifact_link(self, run: RunRef, path: str) -> str | None:
        """Return where MLflow's own pages show an artifact, None if no server holds the store."""
        uri = self._client.tracking_uri
        if not uri.startswith("http"):
            return None
        place = f"experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/{path}"
        return f"{uri.rstrip('/')}/#/{place}"

    def report_link(self, run_id: str) -> str | None:
        """Return where MLflow's pages show a night's reports, None if no server holds the store."""
        return self.artifact_link(RunRef(self._experiment, run_id), "reports")

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
        of_parent = f"tags.`{_PARENT_TAG}` = '{parent.run_id}'"
        for run in self._client.search_runs(
            [self._experiment], f"{of_parent} and attributes.run_name = '{name}'"
        ):
            self._client.set_terminated(run.info.run_id, "KILLED")

    def _reopened(self, key: str) -> RunRef | None:
        """Return the run that a key already has, running again."""
        found = self._find(key)
        if found is None:
            return None
        self._client.update_run(found.info.run_id, status="RUNNING")
        return RunRef(self._experiment, found.info.run_id)

    def _begin(self, name: str, tags: Mapping[str, str]) -> RunRef:
        begun = uuid.uuid4().hex
        run = made_once(
            lambda: self._tagged(_BEGUN_TAG, begun),
            lambda: self._client.create_run(
                self._experiment, run_name=name, tags={**tags, _BEGUN_TAG: begun}
            ),
            self._client.tracking_uri,
        )
        return RunRef(self._experiment, run.info.run_id)

    def _find(self, key: str) -> Run | None:
        return self._tagged(KEY_TAG, key)

    def _tagged(self, tag: str, value: str) -> Run | None:
        """Return the newest run that has a tag of a value."""
        found = self._client.search_runs(
            [self._experiment], f"tags.`{tag}` = '{value}'", max_results=1
        )
        return found[0] if found else None

    def _link(self, parent: RunRef, stage: str, run_id: str) -> None:
        tag = RunTag(f"{_LINK_TAG}.{stage}", run_id)
        self._client.log_batch(parent.run_id, tags=[tag])


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_PARAM_CHARACTERS]
