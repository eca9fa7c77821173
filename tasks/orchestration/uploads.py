"""A model's folder in the run of a night, which says so once all of it lies there.

A night that is killed between the upload and the version leaves the folder for the next one.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from tasks.orchestration.patience import gone_is_fine, patiently
from tasks.orchestration.stores import EXPERIMENT, RunRef, local_path
from tasks.orchestration.versions import Model, Version, models_folder
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import MANIFEST, file_sha256

_TAG = "nightloom.uploaded"


@dataclass(frozen=True)
class Upload:
    """A folder that lies complete in a run: of which key, with which bundle's manifest."""

    run_id: str
    source: str
    key: str
    manifest: str


class Uploads:
    """The models' folders in one MLflow store; `artifacts` is where our own store keeps them."""

    def __init__(self, client: MlflowClient, artifacts: Path | None) -> None:
        self._client = client
        self._artifacts = artifacts

    def add(self, model: Model, key: str, folder: Path, run: RunRef) -> Upload:
        """The folder in a run; a tag of the run names the key once all of it is there."""
        [manifest] = folder.glob(f"artifacts/*/{MANIFEST}")
        self._client.log_artifacts(run.run_id, str(folder), models_folder(model))
        self._client.set_tag(run.run_id, f"{_TAG}.{model}", f"{key} {file_sha256(manifest)}")
        upload = _read(self._client.get_run(run.run_id), model)
        assert upload is not None
        return upload

    def of_key(self, model: Model, key: str) -> Upload | None:
        """The folder of a promotion key, None where no night came so far."""
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        query = f"tags.`{_TAG}.{model}` LIKE '{key} %'"
        runs = self._client.search_runs([experiment.experiment_id], query, max_results=1)
        return _read(runs[0], model) if runs else None

    def of_version(self, version: Version) -> Upload | None:
        """What a version was made of, None where no night uploaded it."""
        try:
            run = self._client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        upload = _read(run, version.model)
        return upload if upload is not None and upload.source == version.source else None

    def delete(self, version: Version) -> None:
        """Take away what a night made a version of; a delete that was cut short goes on.

        What lies elsewhere is not ours to delete.

        Raises:
            ConfigError: our own store names a folder outside of its artifacts.
        """
        if not version.key:
            return
        folder = local_path(version.source)
        if folder is not None:
            self._check_own(version, folder)
        if self.of_version(version) is not None:
            # First, lest a later night makes a version of artifacts that are gone.
            with gone_is_fine():
                self._client.delete_tag(version.run_id, f"{_TAG}.{version.model}")
        if folder is not None:
            delete_folder(folder)
            return
        store = get_artifact_repository(version.source, tracking_uri=self._client.tracking_uri)
        patiently(store.delete_artifacts, self._client.tracking_uri)

    def _check_own(self, version: Version, folder: Path) -> None:
        if self._artifacts is None:
            return
        if not folder.resolve().is_relative_to(self._artifacts.resolve()):
            raise ConfigError(
                f"{version.name} has its files in {folder}; expected them below {self._artifacts}. "
                "What lies elsewhere may be another checkout's, so nothing was deleted",
                "run the command again in the checkout whose files they are",
            )

    def download(self, uri: str, target: Path) -> Path:
        """The folder with what lies at an artifact URI, fetched where it was not yet."""
        if not target.exists():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            found = download_artifacts(
                artifact_uri=uri, dst_path=str(partial), tracking_uri=self._client.tracking_uri
            )
            Path(found).rename(target)
            shutil.rmtree(partial, ignore_errors=True)
        return target


def delete_folder(folder: Path) -> None:
    """Delete a folder, or what an earlier try has left of it.

    MLflow 3.17's `LocalArtifactRepository.delete_artifacts` decodes the path of a URI twice: of
    `/a%20b` it would delete `/a b`.
    """
    if folder.exists():
        shutil.rmtree(folder)


def _read(run: Run, model: Model) -> Upload | None:
    tag = run.data.tags.get(f"{_TAG}.{model}")
    if not tag:
        return None
    key, manifest = tag.split(" ")
    return Upload(run.info.run_id, f"{run.info.artifact_uri}/{models_folder(model)}", key, manifest)
