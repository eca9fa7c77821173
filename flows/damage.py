"""Outs whose files are not as a stage wrote them, as after a bit flipped on a disk: made anew.

DVC does not see it where a file's times stay: it trusts them, in its cache too. Whoever reads such
an out is told by its manifest, each night again, until the out and what DVC would bring back in its
place are gone.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from flows.differences import read_lock
from flows.erased_objects import object_place
from flows.graph import cache_folder
from flows.run_state import new_night_name
from tasks.stage.errors import DataError
from tasks.stage.outputs import MANIFEST, file_sha256, verified

_LISTING = ".dir"  # ends the name of a folder in DVC's cache: what it holds, as JSON


def put_damaged_aside(root: Path, aside: Path) -> list[str]:
    """Move outs that do not match their manifests aside; return a sentence on each.

    What does not in DVC's cache is deleted, so that the next night restores what is whole there and
    makes the rest anew. Whoever calls this holds the workspace's lock.

    Raises:
        ConfigError: DVC can't read the workspace.
    """
    told, cache = [], cache_folder(root)
    for path, digest in _recorded_outs(root):
        folder = root / path
        why = _damage(folder)
        if why is None:
            continue
        for file in _damaged_in_cache(cache, digest):
            file.unlink()
        place = aside / f"{folder.name}-{new_night_name(datetime.now(UTC))}"
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        then = "it is made anew, since DVC's cache is damaged too"
        if _is_in_cache(cache, digest):
            then = "it is brought back"
        told.append(f"{why}; {then}; what is damaged lies in {place}")
    return told


def _recorded_outs(root: Path) -> list[tuple[str, str]]:
    """Return the folders that `dvc.lock` names, each with DVC's hash of it."""
    stages = read_lock(root / "dvc.lock").values()
    outs = [out for stage in stages for out in stage.get("outs", ())]
    return [(out["path"], out["md5"]) for out in outs if (root / out["path"]).is_dir()]


def _damage(folder: Path) -> str | None:
    """Return why an out is not whole, None where it is or never said what it holds."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        verified(folder)
    except DataError as error:
        return error.message
    return None


def _is_in_cache(cache: Path, digest: str) -> bool:
    """Return whether the cache has every file of a folder; several folders may share one."""
    listing = object_place(cache, digest)
    if not listing.exists():
        return False
    return all(
        object_place(cache, entry["md5"]).exists() for entry in json.loads(listing.read_bytes())
    )


def _damaged_in_cache(cache: Path, digest: str) -> list[Path]:
    """Return the files in the cache that are not what DVC or the out's manifest says."""
    listing = object_place(cache, digest)
    try:
        entries = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_bytes())}
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError):
        return [listing]
    if f"{_md5(listing)}{_LISTING}" != digest:
        return [listing]
    files = {name: object_place(cache, md5) for name, md5 in entries.items()}
    there = {name: path for name, path in files.items() if path.exists()}
    bad = [path for name, path in there.items() if _md5(path) != entries[name]]
    return bad or list(_against_manifest(there))


def _against_manifest(files: dict[str, Path]) -> Iterator[Path]:
    """Yield the cached files that are other ones than the manifest among them says."""
    if MANIFEST not in files:
        return
    try:
        expected = dict(json.loads(files[MANIFEST].read_bytes())["files"])
    except (ValueError, LookupError, TypeError):
        yield files[MANIFEST]
        return
    for name, path in files.items():
        if name != MANIFEST and file_sha256(path) != expected.get(name):
            yield path


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
