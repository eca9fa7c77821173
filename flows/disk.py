"""What takes a checkout's disk."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flows.graph import cache_folder
from flows.workspace import STATE, Workspace

_WORKSPACES = f"{STATE}/workspaces"
_BLOCK = 512  # what st_blocks counts in, on every system


@dataclass(frozen=True)
class Place:
    """Something that takes space: what people call it, and how much it takes."""

    name: str
    gigabytes: float


def scratch_folders(checkout: Path) -> str:
    """Where checkpoints and memos lie, from the checkout, as people read it."""
    return " and ".join(_scratch(checkout))


def taken(checkout: Path) -> list[Place]:
    """What takes the checkout's disk, the most first; a file with two names counts once.

    Raises:
        ConfigError: DVC can't read the checkout.
    """
    state = checkout / STATE
    places = {
        "checkpoints and memos": [p for name in _scratch(checkout) for p in checkout.glob(name)],
        "DVC's cache": [cache_folder(checkout)],
        "workspaces": [state / "workspaces"],
        "versions and reports": [state / "artifacts"],
        "base models": [state / "models"],
    }
    seen: set[tuple[int, int]] = set()
    found = [Place(name, _bytes(folders, seen) / 1e9) for name, folders in places.items()]
    return sorted(found, key=lambda place: -place.gigabytes)


def _scratch(checkout: Path) -> tuple[str, str]:
    """Patterns of the checkout's scratch folder and those of its workspaces."""
    scratch = Workspace(checkout, checkout, ()).paths().scratch
    return scratch, f"{_WORKSPACES}/*/{scratch}"


def _bytes(folders: Iterable[Path], seen: set[tuple[int, int]]) -> int:
    """What lies below folders and was not seen before, which is then in `seen`."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    found = Path(place, name).lstat()
                except FileNotFoundError:  # a night that runs takes its files away
                    continue
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * _BLOCK
    return total
