"""Atomic outputs: written aside, hashed, then brought into place."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.stage.errors import DataError

MANIFEST = "manifest.json"
# What helps where a release bundle is not whole.
RESTORE = (
    "name another version, or restore MLflow's artifacts from a backup (a night's own data/bundle: "
    "move it out of data/, then `dvc checkout data/bundle`)"
)
_BLOCK = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_files(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 of every file of a folder but its own manifest, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: file_sha256(path) for name, path in names.items() if name != MANIFEST}


def write_manifest(folder: Path) -> None:
    """Write `manifest.json` (the SHA-256 of every file below) into a folder."""
    text = json.dumps({"files": folder_files(folder)}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def seal(folder: Path) -> None:
    """Write a folder's manifest and let the disk have it all, so that `verified` knows it whole."""
    write_manifest(folder)
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def verified(folder: Path, *, what: str = "", remedy: str = "") -> Path:
    """Return the folder itself, once every file in it matches its manifest.

    An error says `what` it is and the `remedy`, where these are not a stage's folder and DVC.

    Raises:
        DataError: there is no manifest, it can't be read, or a file is missing, added or changed.
    """
    what = f"{what} ({folder})" if what else str(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise DataError(
            f"{what} has no {MANIFEST}; expected a folder that a stage finished",
            remedy or "run `nightloom run`, or `dvc checkout` to bring the last good one back",
        )
    remedy = remedy or (
        f"move {folder} out of {folder.parent}, and keep it where it holds what you changed; then "
        f"`dvc checkout {folder}` brings the recorded files back"
    )
    try:
        expected = dict(json.loads(path.read_bytes())["files"])
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{what} has a {MANIFEST} that can't be read ({error}); it names each file's hash",
            remedy,
        ) from None
    found = folder_files(folder)
    odd = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if odd:
        raise DataError(
            f"{what} does not match its {MANIFEST}: missing, added or changed: "
            + ", ".join(odd[:5]),
            remedy,
        )
    return folder


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(temporary: Path, final: Path) -> None:
    """Bring a sealed folder into place: rename, fsync of the parent."""
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(final.parent)


@contextmanager
def output_folders(*folders: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary folders that become the given ones when the block ends without an error.

    Each gets a manifest. After an error nothing is left and what stood there before still stands.
    """
    temporaries = tuple(path.with_name(f".{path.name}.partial") for path in folders)
    for temporary in temporaries:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        yield temporaries
        for temporary in temporaries:
            seal(temporary)
        for temporary, final in zip(temporaries, folders, strict=True):
            _place(temporary, final)
    finally:
        for temporary in temporaries:
            shutil.rmtree(temporary, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)
