"""Versions that are registered as a night does it: uploaded to a run, which says what they are."""

import shutil
from pathlib import Path

from mlflow.tracking import MlflowClient

from tasks.records.schema import ServedModel
from tasks.registry.versions import model_name, models_folder
from tasks.services import run_tags
from tasks.services.stores import EXPERIMENT, local_path, open_experiment
from tasks.stage.outputs import MANIFEST, file_sha256


def add_version(client: MlflowClient, model: ServedModel, folder: Path, artifacts: Path) -> int:
    """Register a copy of a folder, which has a bundle below `artifacts/`; return its number.

    `artifacts` is where the store of a checkout keeps its files.
    """
    experiment = open_experiment(client, EXPERIMENT, artifacts.absolute().as_uri())
    run = client.create_run(experiment).info
    source = f"{run.artifact_uri}/{models_folder(model)}"
    place = local_path(source)
    assert place is not None
    shutil.copytree(folder, place)
    [manifest] = place.glob(f"artifacts/*/{MANIFEST}")
    said = f"key {file_sha256(manifest)}"
    client.set_tag(run.run_id, f"{run_tags.UPLOADED}.{model}", said)
    made = client.create_model_version(model_name(model), source=source, run_id=run.run_id)
    return int(made.version)
