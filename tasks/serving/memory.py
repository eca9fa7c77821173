"""Whether there is memory for a second version beside the one that answers."""

from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from tasks.answering.release_bundle import BASE, EMBEDDER, INDEX, STUDENT, BundleSettings
from tasks.models.engines import ARRAYS
from tasks.models.loading import prepare_device
from tasks.models.manifest import ModelManifest
from tasks.models.store import WEIGHTS
from tasks.records.schema import ServedModel
from tasks.retrieval.index import IndexSettings
from tasks.serving.memory_budget import free_memory
from tasks.stage.errors import ConfigError

_FLOAT_BYTES = torch.float32.itemsize


def needed_bytes(bundle: Path, store: Path, model: ServedModel) -> int:
    """Return what a version takes of memory once it is loaded: weights in float32, and the index.

    An adapter is merged into its base. While that is done, its own weights are held twice. An
    embedder that a package of its own computes with takes some four bytes a byte on the disk.
    """
    base = ModelManifest.read(bundle / BASE).folder(store)
    folders = [bundle / STUDENT if model == "student" else base]
    if IndexSettings.read(bundle / INDEX).needs_embedder:
        folders.append(ModelManifest.read(bundle / EMBEDDER).folder(store))
    weights = [path for folder in folders for path in folder.rglob(f"*{WEIGHTS}")]
    arrays = [folder / ARRAYS for folder in folders if (folder / ARRAYS).exists()]
    index = sum(path.stat().st_size for path in (bundle / INDEX).rglob("*") if path.is_file())
    numbers = sum(map(_numbers, weights)) + sum(path.stat().st_size for path in arrays)
    return numbers * _FLOAT_BYTES + index


def require_free_memory(bundle: Path, store: Path, model: ServedModel) -> None:
    """Refuse to load a version for which the device has less memory left than it takes.

    Raises:
        ConfigError: it says how much is missing.
    """
    needed = needed_bytes(bundle, store, model)
    free = free_memory(prepare_device(BundleSettings.read(bundle).compute))
    if needed > free:
        raise ConfigError(
            f"the new version takes {needed / 1e9:.2f} GB beside the one that answers, and "
            f"{free / 1e9:.2f} GB are left; loading it could end both",
            "make room, or stop `nightloom serve` and start it again, which loads the new version "
            "alone",
        )


def _numbers(path: Path) -> int:
    """Return how many numbers a file of weights holds."""
    with safe_open(path, framework="pt") as content:
        names = content.keys()
        return sum(prod(content.get_slice(name).get_shape()) for name in names)
