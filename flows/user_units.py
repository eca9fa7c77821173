"""systemd's units of one user for a checkout: `up`, and the check that tells of silence.

Their text stands in `deploy/systemd/user`; here its places are filled in.
"""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically

_TEMPLATES = "deploy/systemd/user"
_NAME = "nightloom"
_LINE = "WorkingDirectory="


@dataclass(frozen=True)
class Unit:
    """A unit's file and its text."""

    path: Path
    text: str


def user_units(checkout: Path, options: Sequence[str], name: str, home: Path) -> list[Unit]:
    """Return the units of a checkout; `options` are those of `nightloom up`.

    Raises:
        ConfigError: the checkout lacks the templates, or its path can't stand in a unit.
    """
    places = {
        "@CHECKOUT@": _plain(str(checkout)),
        "@COMMAND@": _command([*_nightloom(), "up", *options]),
        "@WATCH@": _command([*_nightloom(), "notify", "--check"]),
    }
    folder = home / ".config" / "systemd" / "user"
    templates = sorted((checkout / _TEMPLATES).glob(f"{_NAME}*"))
    if not templates:
        raise ConfigError(
            f"{checkout / _TEMPLATES} holds no unit; expected the templates of this repository",
            f"`git checkout {_TEMPLATES}` brings them back",
        )
    units = []
    for template in templates:
        text = template.read_text(encoding="utf-8")
        for place, value in places.items():
            text = text.replace(place, value)
        units.append(Unit(folder / template.name.replace(_NAME, name, 1), text))
    return units


def write_units(units: Sequence[Unit]) -> None:
    """Write units, those of the same checkout over what was there.

    Raises:
        ConfigError: one is another checkout's.
    """
    for unit in units:
        there = unit.path.read_text(encoding="utf-8") if unit.path.exists() else ""
        if _place(there) not in (None, _place(unit.text)):
            raise ConfigError(
                f"{unit.path} is for {_place(there)}; expected one of this checkout, because two "
                "of one name would take each other's place",
                "give this one another name with --name",
            )
    for unit in units:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(unit.path, unit.text)


def enable(units: Sequence[Unit]) -> None:
    """Let systemd start the service and the timer, now and whenever the user's manager starts.

    Raises:
        ConfigError: systemd refuses.
    """
    for words in (["daemon-reload"], ["enable", "--now", *enabled(units)]):
        child = run_child(["systemctl", "--user", *words], Path("/"))
        if child.code != 0:
            raise ConfigError(
                f"`systemctl --user {shlex.join(words)}` failed:\n{child.last_lines}",
                "mend what systemd names, then run the same command again",
            )


def enabled(units: Sequence[Unit]) -> list[str]:
    """Return the units that are started by themselves: all but those that a timer starts."""
    timers = {unit.path.stem for unit in units if unit.path.suffix == ".timer"}
    return [
        unit.path.name
        for unit in units
        if unit.path.suffix == ".timer" or unit.path.stem not in timers
    ]


def find_manager() -> str | None:
    """Return why no systemd manager of this user can be asked, None where one answers."""
    if shutil.which("systemctl") is None:
        return "there is no systemctl on this machine"
    child = run_child(["systemctl", "--user", "show-environment"], Path("/"))
    return None if child.code == 0 else child.last_lines or "systemctl --user does not answer"


def _nightloom() -> list[str]:
    script = Path(sys.executable).parent / "nightloom"
    return [str(script)] if script.exists() else [sys.executable, "-m", "flows.cli"]


def _place(text: str) -> str | None:
    """Return the folder that a unit works in."""
    return next((line for line in text.splitlines() if line.startswith(_LINE)), None)


def _plain(text: str) -> str:
    """Return a path as a unit's line holds it; `%` begins a specifier there.

    Raises:
        ConfigError: it has a character that ends the line or a line that goes on.
    """
    if "\n" in text or text.endswith("\\"):
        raise ConfigError(
            f"the project's folder is {text!r}; a unit of systemd can't hold such a path",
            "rename the folder",
        )
    return text.replace("%", "%%")


def _command(words: Sequence[str]) -> str:
    """Return a command line as `ExecStart=` reads it (systemd.service(5), "Command lines")."""
    quoted = []
    for word in words:
        text = _plain(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
        quoted.append(f'"{text}"' if any(c in text for c in " \t'\";") or not text else text)
    return " ".join(quoted)
