"""The MLflow registry: versions, their files, tags and aliases."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from tasks.records.schema import ServedModel
from tasks.registry.versions import (
    BUNDLE_TAG,
    KEY_TAG,
    STAGE_TAG,
    Version,
    check_manifest,
    model_name,
    models_folder,
)
from tasks.services import run_tags
from tasks.services.stores import (
    EXPERIMENT,
    RunRef,
    Stores,
    call_with_retries,
    find_experiment,
    local_path,
    made_once,
    missing_is_fine,
    retrying_client,
)
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import MANIFEST, file_sha256
from tasks.stage.pages import plain_markdown


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

    def add(self, model: ServedModel, key: str, folder: Path, run: RunRef) -> Upload:
        """Upload a folder to a run; a tag of the run names the key once all of it is there."""
        [manifest] = folder.glob(f"artifacts/*/{MANIFEST}")
        self._client.log_artifacts(run.run_id, str(folder), models_folder(model))
        self._client.set_tag(
            run.run_id, f"{run_tags.UPLOADED}.{model}", f"{key} {file_sha256(manifest)}"
        )
        upload = _read_upload(self._client.get_run(run.run_id), model)
        assert upload is not None
        return upload

    def of_key(self, model: ServedModel, key: str) -> Upload | None:
        """Return the upload of a promotion key, None if no night came so far."""
        experiment = find_experiment(self._client, EXPERIMENT)
        if experiment is None:
            return None
        query = f"tags.`{run_tags.UPLOADED}.{model}` LIKE '{key} %'"
        runs = self._client.search_runs([experiment.experiment_id], query, max_results=1)
        return _read_upload(runs[0], model) if runs else None

    def of_version(self, version: Version) -> Upload | None:
        """Return what a version was made of, None if no night uploaded it."""
        return self._at(version, version.source)

    def served(self, version: Version) -> Upload | None:
        """Return what the files of a version are, also of one that MLflow copied from another."""
        uri = self._client.get_model_version_download_uri(
            model_name(version.model), str(version.number)
        )
        return self._at(version, uri)

    def _at(self, version: Version, source: str) -> Upload | None:
        try:
            run = self._client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        upload = _read_upload(run, version.model)
        return upload if upload is not None and upload.source == source else None

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
            with missing_is_fine():
                self._client.delete_tag(version.run_id, f"{run_tags.UPLOADED}.{version.model}")
        if folder is not None:
            delete_folder(folder)
            return
        store = get_artifact_repository(version.source, tracking_uri=self._client.tracking_uri)
        call_with_retries(store.delete_artifacts, self._client.tracking_uri)

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
        """Return the folder with what lies at an artifact URI, downloaded if it is not there."""
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


def _read_upload(run: Run, model: ServedModel) -> Upload | None:
    tag = run.data.tags.get(f"{run_tags.UPLOADED}.{model}")
    if not tag:
        return None
    key, manifest = tag.split(" ")
    return Upload(run.info.run_id, f"{run.info.artifact_uri}/{models_folder(model)}", key, manifest)


PROMPT_NAME = "nightloom-answer"

DIGEST_TAG = "sha256"

_LINKED_PROMPTS = "mlflow.linkedPrompts"


_DESCRIPTION_CHARACTERS = 5000  # as MLflow bounds them

_DESCRIPTIONS: dict[ServedModel, str] = {
    "adapter": "An adapter on the base model, retrained every night by Nightloom, with its index "
    "and prompt. The alias `production` names the version that is served, `staging` the one that "
    "passed every rule, `candidate` the newest.",
    "student": "A smaller model that learned from the adapter of the same night, with its index "
    "and prompt. Its aliases are those of the adapter: `production`, `staging`, `candidate`.",
}


class Registry:
    """Versions and aliases of one MLflow store."""

    def __init__(self, stores: Stores, *, retry_seconds: float | None = None) -> None:
        """Open the store; calls that read wait so long for one that is away."""
        self._where = stores.tracking_uri
        self._client = retrying_client(MlflowClient, self._where, seconds=retry_seconds)
        self._uploads = Uploads(self._client, stores.artifacts)

    def find(self, model: ServedModel, key: str) -> Version | None:
        """Return the first version that carries a promotion key, None if there is none."""
        query = f"name = '{model_name(model)}' and tags.`{KEY_TAG}` = '{key}'"
        items = self._client.search_model_versions(query)
        found = [one for one in (_version(model, item) for item in items) if one.key == key]
        return min(found, key=lambda version: version.number, default=None)

    def register(
        self,
        model: ServedModel,
        key: str,
        folder: Callable[[], Path],
        run: RunRef,
        tags: Mapping[str, str],
    ) -> Version:
        """Return the version of a key: the one that exists, else a new one with these tags.

        `folder` writes what the model consists of; it is not asked where a run has it already.
        """
        upload = self._uploads.of_key(model, key)
        upload = upload or self._uploads.add(model, key, folder(), run)
        name = model_name(model)
        try:
            self._client.create_registered_model(name, description=_DESCRIPTIONS[model])
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

        def create() -> Version:
            made = self._client.create_model_version(
                name,
                source=upload.source,
                run_id=upload.run_id,
                tags={**tags, KEY_TAG: key, BUNDLE_TAG: upload.manifest, STAGE_TAG: "none"},
            )
            return _version(model, made)

        return made_once(lambda: self.find(model, key), create, self._where)

    def aliases(self, model: ServedModel) -> dict[str, int]:
        """Return alias -> version number; empty if nothing is registered."""
        found = self._registered(model)
        aliases = {} if found is None else found.aliases
        return {name: int(number) for name, number in sorted(aliases.items())}

    def model_tags(self, model: ServedModel) -> dict[str, str]:
        """Return the tags of the registered model itself; empty if nothing is registered."""
        found = self._registered(model)
        return {} if found is None else dict(found.tags)

    def _registered(self, model: ServedModel) -> RegisteredModel | None:
        try:
            return self._client.get_registered_model(model_name(model))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def set_model_tag(self, model: ServedModel, tag: str, value: str) -> None:
        """Set a tag of the registered model itself."""
        self._client.set_registered_model_tag(model_name(model), tag, value)

    def delete_model_tag(self, model: ServedModel, tag: str) -> None:
        """Take a tag of the registered model itself away, where it is there."""
        self._client.delete_registered_model_tag(model_name(model), tag)

    def version(self, model: ServedModel, number: int) -> Version:
        """Return one version by its number.

        Raises:
            ConfigError: there is no such version.
        """
        found = next((item for item in self.versions(model) if item.number == number), None)
        if found is None:
            known = ", ".join(map(str, self.numbers(model))) or "none"
            raise ConfigError(
                f"{model_name(model)} has no version {number}; found {known}",
                "name one of these; `nightloom status` shows which alias names which",
            )
        return found

    def versions(self, model: ServedModel) -> list[Version]:
        """Return all versions, by number."""
        found = self._client.search_model_versions(f"name = '{model_name(model)}'")
        versions = [_version(model, item) for item in found]
        return sorted(versions, key=lambda version: version.number)

    def numbers(self, model: ServedModel) -> list[int]:
        """Return the numbers of all versions, ascending."""
        return [version.number for version in self.versions(model)]

    def delete(self, version: Version) -> None:
        """Take a version away, and its artifacts; a delete that was cut short goes on."""
        others = {item.source for item in self.versions(version.model) if item != version}
        if version.source not in others:
            self._uploads.delete(version)
        with missing_is_fine():
            self._client.delete_model_version(model_name(version.model), str(version.number))

    def point(self, model: ServedModel, alias: str, number: int) -> None:
        """Let an alias name a version. Two that create the same alias at once: one tries again."""
        name = model_name(model)
        try:
            self._client.set_registered_model_alias(name, alias, str(number))
        except MlflowException:
            self._client.set_registered_model_alias(name, alias, str(number))

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        name = model_name(version.model)
        for tag, value in tags.items():
            self._client.set_model_version_tag(name, str(version.number), tag, value)

    def describe(self, version: Version, text: str) -> None:
        """Set the description of a version, in Markdown."""
        name, number = model_name(version.model), str(version.number)
        self._client.update_model_version(
            name, number, plain_markdown(text)[:_DESCRIPTION_CHARACTERS]
        )

    def register_prompt(self, text: str, digest: str, run: RunRef) -> int:
        """Return the version of a prompt in MLflow's prompt registry, linked to a night's run.

        A digest that is registered already keeps its version. Call it while holding the lock.
        """
        made_once(
            lambda: self._client.get_prompt(PROMPT_NAME),
            lambda: self._client.create_prompt(
                PROMPT_NAME, "How Nightloom asks; Jinja, in three parts"
            ),
            self._where,
        )
        number = made_once(
            lambda: self._prompt_version(digest),
            lambda: int(
                self._client.create_prompt_version(
                    PROMPT_NAME, text, tags={DIGEST_TAG: digest}
                ).version
            ),
            self._where,
        )
        # As link_prompt_version_to_run does, which writes to the process's default store instead.
        link = [{"name": PROMPT_NAME, "version": str(number)}]
        self._client.set_tag(run.run_id, _LINKED_PROMPTS, json.dumps(link))
        return number

    def _prompt_version(self, digest: str) -> int | None:
        """Return the version of the prompt that has a digest, None if there is none."""
        found = self._client.search_prompt_versions(PROMPT_NAME)
        numbers = (int(one.version) for one in found if one.tags.get(DIGEST_TAG) == digest)
        return next(numbers, None)

    def upload(self, version: Version) -> Upload | None:
        """Return what the night's run says that a version's files are, None if it says nothing."""
        return self._uploads.served(version)

    def files_of_run(self, version: Version, folder: str, target: Path) -> Path:
        """Return a fresh copy of a folder among the artifacts of the run that made a version.

        It is empty where the run has none.
        """
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if self._client.list_artifacts(version.run_id, folder):
            self._client.download_artifacts(version.run_id, folder, str(target))
        return target / folder

    def bundle(self, model: ServedModel, number: int, downloads: Path) -> Path:
        """Return a local folder with a version's bundle, downloaded if the store is elsewhere.

        Raises:
            DataError: the version holds none, or another one than was registered.
        """
        uri = self._client.get_model_version_download_uri(model_name(model), str(number))
        folder = local_path(uri)
        if folder is None:
            folder = self._uploads.download(uri, downloads / model_name(model) / str(number))
        found = [path.parent for path in folder.glob(f"artifacts/*/{MANIFEST}")]
        if len(found) != 1:
            raise DataError(
                f"{model_name(model)} version {number} holds no bundle in {folder}; expected one "
                f"with a {MANIFEST}: its artifacts were deleted, or something else registered it",
                "name another version, or run `nightloom run`, which makes a new one",
            )
        tags = self._client.get_model_version(model_name(model), str(number)).tags
        if BUNDLE_TAG in tags:
            name = f"{model_name(model)} version {number}"
            check_manifest(found[0], name, f"the tag {BUNDLE_TAG}", tags[BUNDLE_TAG])
        return found[0]


def _version(model: ServedModel, found: ModelVersion) -> Version:
    return Version(
        model=model,
        number=int(found.version),
        tags=dict(found.tags),
        run_id=str(found.run_id),
        source=str(found.source),
        created_ms=int(found.creation_timestamp or 0),
    )
