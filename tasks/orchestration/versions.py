"""What a registered version is, and what its aliases and tags are called."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.stage.outputs import MANIFEST, file_sha256

Model = Literal["adapter", "student"]
Alias = Literal["candidate", "staging", "production", "previous"]
MODELS: tuple[Model, ...] = ("adapter", "student")
KEY_TAG = "promotion_key"
STAGE_TAG = "stage"
PROMPT_TAG = "prompt_version"
VERDICT_TAG = "verdict"
REASONS_TAG = "reasons"
BUNDLE_TAG = "bundle_manifest"  # the SHA-256 of the manifest of the bundle as it was registered


@dataclass(frozen=True)
class Version:
    """One registered version of a model, what its tags say, and the night's run that made it."""

    model: Model
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
        """Its promotion key; empty where something else than Nightloom made it."""
        return self.tags.get(KEY_TAG, "")


def promotion_key(bundle: Path) -> str:
    """The SHA-256 of a bundle's manifest: the same bytes are the same version."""
    return file_sha256(bundle / MANIFEST)


def model_name(model: Model) -> str:
    """The name under which a model is registered."""
    return f"nightloom-{model}"
