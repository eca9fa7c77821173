"""What an embedder learned of the data: a LoRA adapter, which lies beside its manifest.

The manifest names each of its files by hash, so whoever is given a manifest has the embedder whole.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.models.manifest import ModelManifest
from tasks.stage.errors import DataError
from tasks.stage.outputs import RESTORE, folder_files

# In the folder of a searched index's embedder, and in a release bundle.
MANIFEST_FILE = "embedder.json"
ADAPTER_FOLDER = "embedder_adapter"
GAIN_FILE = "embedder_gain.json"  # what it finds more than its base does


def copy_embedder(manifest: Path, folder: Path) -> None:
    """Copy a manifest into a folder, and the adapter that it names with what that gained.

    Raises:
        DataError: a file of the adapter is missing, added or changed.
    """
    if ModelManifest.read(manifest).adapter is not None:
        shutil.copytree(verified_adapter(manifest), folder / ADAPTER_FOLDER)
        shutil.copyfile(manifest.parent / GAIN_FILE, folder / GAIN_FILE)
    shutil.copyfile(manifest, folder / MANIFEST_FILE)


def write_adapted(base: ModelManifest, folder: Path) -> Path:
    """Write the manifest of a base with the adapter that lies in the folder; return its path."""
    files = folder_files(folder / ADAPTER_FOLDER)
    replace(base, adapter=files).write(folder / MANIFEST_FILE)
    return folder / MANIFEST_FILE


def verified_adapter(manifest: Path) -> Path:
    """Return the folder of the adapter that a manifest names, each file as it says.

    Raises:
        DataError: a file is missing, added or changed.
    """
    folder = manifest.parent / ADAPTER_FOLDER
    named, found = ModelManifest.read(manifest).adapter or {}, folder_files(folder)
    odd = sorted(name for name in named | found if named.get(name) != found.get(name))
    if odd:
        raise DataError(
            f"{folder} is not the adapter that {manifest.name} names: missing, added or changed: "
            f"{', '.join(odd[:5])}. Questions would be embedded otherwise than the index's "
            "passages were",
            RESTORE,
        )
    return folder


def read_gain(manifest: Path) -> dict[str, Any] | None:
    """Return what the embedder of a manifest finds more than its base, None where it is that."""
    if ModelManifest.read(manifest).adapter is None:
        return None
    content: dict[str, Any] = json.loads(manifest.with_name(GAIN_FILE).read_text(encoding="utf-8"))
    return content


def merge_adapter(model: Any, manifest: Path) -> Any:
    """Return the model of an embedder's base with the adapter that its manifest names, merged.

    Raises:
        ConfigError: the adapter's weights are not this base's.
        DataError: a file of it is missing, added or changed.
    """
    from tasks.models.loading import adapted_model  # it loads peft's kin, which others do without

    return adapted_model(model, verified_adapter(manifest)).merge_and_unload().eval()
