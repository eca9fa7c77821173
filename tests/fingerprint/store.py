"""MLflow's names: experiments, runs, models, aliases, tags, params, metrics, artifacts."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.fingerprint.values import Values, plain, shape

# MLflow samples the machine every five seconds: a short stage may have none.
_OF_THE_MACHINE = "system/"


def add_store(values: Values, root: Path) -> None:
    """Add the names in the store of a clone."""
    client = MlflowClient(f"sqlite:///{root / '.nightloom' / 'mlflow.db'}")
    steps = _steps(root)
    for experiment in client.search_experiments():
        values.add(f"mlflow/experiments/{experiment.name}", "is there")
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        names: dict[str, int] = {}
        for run in runs:
            name = plain(values.renamed(run.info.run_name))
            names[name] = names.get(name, 0) + 1
            key = f"mlflow/{experiment.name}/{name}#{names[name]}"
            _add_run(values, client, run, key)
            for metric, count in steps.get(run.info.run_id, {}).items():
                values.add(f"{key}/metrics/{metric}", f"{count} steps")
    for model in client.search_registered_models():
        _add_model(values, client, model.name)


def _add_run(values: Values, client: MlflowClient, run: Run, key: str) -> None:
    values.add(f"{key}/status", run.info.status)
    for name, text in run.data.tags.items():
        values.add(f"{key}/tags/{name}", plain(text))
    for name, text in run.data.params.items():
        values.add(f"{key}/params/{name}", param(text))
    for item in run.inputs.dataset_inputs:
        values.add(f"{key}/inputs/{item.dataset.name}", "is there")
    for path in _artifacts(client, run.info.run_id, ""):
        values.add(f"{key}/artifacts/{path}", "is there")


def _steps(root: Path) -> dict[str, dict[str, int]]:
    """Return how many steps each run's metrics have; MLflow's client would ask for each alone."""
    query = "select run_uuid, key, count(distinct step) from metrics group by run_uuid, key"
    found: dict[str, dict[str, int]] = {}
    with closing(sqlite3.connect(root / ".nightloom" / "mlflow.db")) as database:
        for run, name, count in database.execute(query):
            if not name.startswith(_OF_THE_MACHINE):
                found.setdefault(run, {})[name] = count
    return found


def _artifacts(client: MlflowClient, run: str, folder: str) -> list[str]:
    """Return the folders of artifacts, and the files of those that people open."""
    found: list[str] = []
    for item in client.list_artifacts(run, folder):
        found.append(item.path)
        # A model's folder holds a copy of the code, whose modules are to move.
        if item.is_dir and not item.path.endswith("code"):
            found += _artifacts(client, run, item.path)
    return found


def _add_model(values: Values, client: MlflowClient, name: str) -> None:
    key = f"mlflow/models/{name}"
    found = client.get_registered_model(name)
    for tag, text in found.tags.items():
        values.add(f"{key}/tags/{tag}", plain(text))
    for alias, number in found.aliases.items():
        values.add(f"{key}/aliases/{alias}", number)
    for version in client.search_model_versions(f"name = '{name}'"):
        for tag, text in version.tags.items():
            values.add(f"{key}/{version.version}/tags/{tag}", plain(text))


def param(text: str) -> str:
    """Return a param's value, and of one that is an entry of the ledger what it is made of."""
    try:
        content = json.loads(text)
    except ValueError:
        return plain(text)
    if isinstance(content, dict) and "kind" in content:
        return "\n".join([f"kind {content['kind']}", *shape(content, "")])
    return plain(text)
