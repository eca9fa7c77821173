"""What a trained model was made from, kept beside its weights.

Also peft's own files, tidied so that the same training gives the same bytes."""

import json
import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.models.linear_maps import ADAPTER_CONFIG, Shares
from tasks.models.loading import BASE_DIGEST_FILE
from tasks.models.manifest import ModelManifest
from tasks.stage.outputs import MANIFEST, file_sha256
from tasks.stage.params import StageParams

PROVENANCE_FILE = "training.json"

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")


def write_provenance(
    folder: Path,
    *,
    base: str,
    numeric_form: str,
    template: str | None,
    tokens: Path,
    params: StageParams,
    teacher: str | None = None,
    start: str | None = None,
    shares: Shares | None = None,
) -> None:
    """Write `training.json`: SHA-256 of all that it was made from, the params, versions.

    `tokens` is the folder of the data; `template` is None where none was rendered.
    `start` is what a student's weights began as, where that is not the base; `shares` those of the
    base that are quantised and adapted.
    """
    made_from: dict[str, Any] = {
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
    if shares is not None:
        made_from["shares"] = asdict(shares)
    text = json.dumps(made_from, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / PROVENANCE_FILE).write_text(text + "\n", encoding="utf-8")


def tidy_adapter(folder: Path, manifest: Path) -> None:
    """Name the base in what peft saved, and sort what would change with the hash seed."""
    # peft's own card names the folder that the base was loaded from.
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = ModelManifest.read(manifest).name
    # peft keeps the targets in a set.
    config["target_modules"] = sorted(config["target_modules"])
    if config.get("target_parameters"):
        config["target_parameters"] = sorted(config["target_parameters"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(manifest, folder / BASE_DIGEST_FILE)
