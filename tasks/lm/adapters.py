"""Adapter folders: peft's own files, tidied so that the same training gives the same bytes."""

import json
import shutil
from pathlib import Path

from tasks.lm.conversion import ModelManifest
from tasks.lm.models import BASE_DIGEST_FILE

_CONFIG = "adapter_config.json"


def tidy_adapter(folder: Path, manifest: Path) -> None:
    """Name the base in what peft saved, and sort what would change with the hash seed."""
    # peft's own card names the folder that the base was loaded from.
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / _CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = ModelManifest.read(manifest).name
    # peft keeps the targets in a set.
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(manifest, folder / BASE_DIGEST_FILE)
