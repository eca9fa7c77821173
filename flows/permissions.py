"""What other users of the machine may read of a checkout: told, and closed."""

import stat
from pathlib import Path

from flows.graph import cache_folder
from flows.workspace import STATE, Workspace

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_CLONED = {"README.md", "raw.dvc"}  # what git brings into the folder of rows


def open_places(checkout: Path) -> list[Path]:
    """Return the folders with stores, logs, rows and models that others may read or enter.

    What lies in a folder that is closed can't be reached, so only the outermost ones are looked at.
    They are relative to the checkout where they lie in it.

    Raises:
        ConfigError: DVC can't read the checkout.
    """
    scratch = Path(Workspace(checkout, checkout, ()).paths().scratch)
    dvc, cache = checkout / ".dvc", cache_folder(checkout)
    if cache.parts[-2:] == ("files", "md5"):  # DVC's own, in the folder that its config names
        cache = cache.parents[1]
    places = [checkout / STATE, checkout / scratch.parts[0], cache]
    places += [dvc / "tmp", dvc / "config.local"]
    found = [path for path in places if path.exists() and path.stat().st_mode & _OTHERS]
    inside = checkout.resolve()
    return [
        path.resolve().relative_to(inside) if path.resolve().is_relative_to(inside) else path
        for path in found
    ]


def close_cloned(checkout: Path) -> None:
    """Close the folder `data` that git made, while it holds nothing but what git brings.

    Git makes it as open as the user's umask says.

    Raises:
        PermissionError: it belongs to another user.
    """
    data = checkout / "data"
    if not data.is_dir() or data.is_symlink():
        return
    if {path.name for path in data.iterdir()} <= _CLONED:
        _close(data)


def close_places(checkout: Path) -> list[Path]:
    """Take away what group and others may do with each open place; return those that were.

    Raises:
        ConfigError: DVC can't read the checkout.
        PermissionError: one belongs to another user.
    """
    found = open_places(checkout)
    for path in found:
        _close(checkout / path)
    return found


def _close(place: Path) -> None:
    place.chmod(stat.S_IMODE(place.stat().st_mode) & ~_OTHERS)
