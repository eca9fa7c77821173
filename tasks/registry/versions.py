"""What a registered version is, and what its aliases and tags are called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.records.schema import ServedModel
from tasks.stage.errors import DataError
from tasks.stage.outputs import MANIFEST, file_sha256

Alias = Literal["candidate", "staging", "production", "previous"]
RegistryStage = Literal["staging", "production"]  # where a decision moves a version
MODELS: tuple[ServedModel, ...] = ("adapter", "student")
KEY_TAG = "promotion_key"
STAGE_TAG = "stage"
PROMPT_TAG = "prompt_version"
VERDICT_TAG = "verdict"
REASONS_TAG = "reasons"
REFUSED_BY_TAG = "refused_by"  # the names of the rules, as JSON
BUNDLE_TAG = "bundle_manifest"  # the SHA-256 of the manifest of the bundle as it was registered


@dataclass(frozen=True)
class Version:
    """One registered version of a model, what its tags say, and the night's run that made it."""

    model: ServedModel
    number: int
    tags: dict[str, str]
    run_id: str
    source: str
    created_ms: int

    @property
    def name(self) -> str:
        """As people and MLflow name it."""
        return f"{model_name(self.model)} version {self.number}"

    @property
    def key(self) -> str:
        """Return its promotion key; empty where something else than Nightloom made it.

        Tags can be copied. What a night made consists of the files in that night's own run, which
        something that was copied, or lies elsewhere, does not.
        """
        own = self.source.endswith(f"/{self.run_id}/artifacts/{models_folder(self.model)}")
        return self.tags.get(KEY_TAG, "") if own else ""


def promotion_key(bundle: Path) -> str:
    """Return the SHA-256 of a bundle's manifest: the same bytes are the same version."""
    return file_sha256(bundle / MANIFEST)


def check_manifest(bundle: Path, name: str, where: str, expected: str | None) -> None:
    """Check that a version's bundle has the manifest that something recorded of it.

    Raises:
        DataError: it has another one; the message names the version, and where that is said.
    """
    found = promotion_key(bundle)
    if found != expected:
        raise DataError(
            f"the bundle of {name} has another {MANIFEST} than when it was registered: {where} "
            f"says {str(expected)[:12]}, found {found[:12]} in {bundle}. What was scored is not "
            "what lies there",
            "name another version, or restore MLflow's artifacts and tags from a backup",
        )


def models_folder(model: ServedModel) -> str:
    """Return where the files of a model lie among the artifacts of a night's run."""
    return f"models/{model}"


def model_name(model: ServedModel) -> str:
    """Return the name under which a model is registered."""
    return f"nightloom-{model}"
