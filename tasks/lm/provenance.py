"""What a trained model was made from, kept beside its weights."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

from tasks.lm.params import TrainingParams
from tasks.stage.outputs import MANIFEST, file_sha256

PROVENANCE_FILE = "training.json"
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


def write_provenance(
    folder: Path,
    *,
    base: str,
    numeric_form: str,
    template: str,
    tokens: Path,
    params: TrainingParams,
    teacher: str | None = None,
    start: str | None = None,
) -> None:
    """Write `training.json`: SHA-256 of all that it was made from, the params, versions.

    `start` is what a student's weights began as, where that is not the base.
    """
    made_from = {
        "base_sha256": base,
        "numeric_form": numeric_form,
        "teacher_sha256": teacher,
        "start_sha256": start,
        "template_sha256": template,
        "data_sha256": file_sha256(tokens / MANIFEST),
        "params": params.model_dump(mode="json"),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
    }
    text = json.dumps(made_from, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / PROVENANCE_FILE).write_text(text + "\n", encoding="utf-8")
