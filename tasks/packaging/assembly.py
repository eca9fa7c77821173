"""A release bundle put together from what the night made."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.serving.bundle import (
    ADAPTER,
    BASE,
    EMBEDDER,
    INDEX,
    STUDENT,
    BundleSettings,
)
from tasks.stage.outputs import verified


@dataclass(frozen=True)
class Parts:
    """Where the parts of a bundle lie."""

    adapter: Path
    student: Path
    index: Path
    base: Path
    embedder: Path


def assemble(bundle: Path, parts: Parts, settings: BundleSettings) -> None:
    """Fill an existing folder with everything that serving needs but the base's weights.

    Folders keep the manifests of the stages that made them. Files are hard links where the disk
    allows it: nothing ever writes into a finished artifact, and a student is large.

    Raises:
        DataError: a part does not match its manifest.
    """
    folders = {ADAPTER: parts.adapter, STUDENT: parts.student, INDEX: parts.index}
    for name, folder in folders.items():
        shutil.copytree(verified(folder), bundle / name, copy_function=_link)
    for name, path in {BASE: parts.base, EMBEDDER: parts.embedder}.items():
        shutil.copyfile(path, bundle / name)
    settings.write(bundle)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where links cannot be made (another disk, another file system)."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
