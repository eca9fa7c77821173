"""Weights in files: nothing pickled, nothing cut short, every number finite."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tasks.stage.errors import ConfigError

WEIGHTS = ".safetensors"
PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


def check_weights(folder: Path) -> None:
    """Check that a folder's weights can be loaded and computed with.

    Raises:
        ConfigError: they are pickled, can't be read, or hold a number that is not finite.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pickled = [path.name for path in files if path.suffix in PICKLED]
    if pickled:
        raise ConfigError(
            f"{folder} holds pickled weights ({', '.join(pickled[:3])}); loading a pickle runs "
            "whatever code is in it",
            "save the model with save_pretrained (safetensors) into a new folder, and name that",
        )
    for path in files:
        if path.suffix == WEIGHTS:
            _check_file(path)


def _check_file(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118  it is no dict, and has no other names
                weight = content.get_tensor(name)
                if weight.is_floating_point() and not torch.isfinite(weight).all():
                    raise ConfigError(
                        f"{path}: {name} holds numbers that are not finite, so every answer of "
                        "this model would be lost",
                        "take an earlier version of the model, or save it again from a sound one",
                    )
    except SafetensorError as error:
        raise ConfigError(
            f"{path} can't be read as safetensors: {error}",
            "copy or download the file again: it may have been cut short",
        ) from None
