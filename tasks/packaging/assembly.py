"""A release bundle put together from what the night made."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.answering.release_bundle import (
    ADAPTER,
    AGENT,
    AGENT_FILE,
    BASE,
    EMBEDDER,
    INDEX,
    STUDENT,
    BundleSettings,
)
from tasks.embedding.adapter import copy_embedder
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import verified

_PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".npz", ".dill"}
# The first bytes of zip files, which torch.save writes, and of pickles of protocol 2 and later; 0
# and 1 are told by their endings alone.
_PICKLE_STARTS = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))


@dataclass(frozen=True)
class Parts:
    """Where the parts of a bundle lie."""

    adapter: Path
    student: Path
    index: Path
    base: Path
    retriever: Path


def assemble(bundle: Path, parts: Parts, settings: BundleSettings) -> None:
    """Fill an existing folder with everything that serving needs but the base's weights.

    Folders keep the manifests of the stages that made them. Files are hard links where the disk
    allows it: nothing ever writes into a finished artifact, and a student is large.

    Raises:
        DataError: a part does not match its manifest.
        ConfigError: a part holds a pickle.
    """
    folders = {ADAPTER: parts.adapter, STUDENT: parts.student, INDEX: parts.index}
    for name, folder in folders.items():
        shutil.copytree(verified(folder), bundle / name, copy_function=_link)
    for name, path in {BASE: parts.base, AGENT: AGENT_FILE}.items():
        shutil.copyfile(path, bundle / name)
    copy_embedder(verified(parts.retriever) / EMBEDDER, bundle)
    settings.write(bundle)
    refuse_pickles(bundle)


def refuse_pickles(folder: Path) -> None:
    """Check that no file of a folder is a pickle, which could run anything where it is loaded.

    Raises:
        ConfigError: one is, by its ending or by its first bytes.
    """
    pickled = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_pickled(path)]
    if pickled:
        names = ", ".join(path.relative_to(folder).as_posix() for path in pickled[:3])
        raise ConfigError(
            f"{len(pickled)} files of the bundle are pickled or may be: {names}; a pickle runs "
            "what it likes where it is loaded, so none is released",
            "save weights as safetensors and tables as JSON, Parquet or plain .npy",
        )


def _is_pickled(path: Path) -> bool:
    if path.suffix in _PICKLED:
        return True
    with path.open("rb") as stream:
        return stream.read(4).startswith(_PICKLE_STARTS)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where links cannot be made (another disk, another file system)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
