"""The intakes as one set of rows: of each id, what the latest intake that holds it says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tasks.records.readers import Line, read_lines
from tasks.stage.errors import DataError
from tasks.stage.outputs import verified
from tasks.validation.rows import MisshapenError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands, with its raw text."""

    intake: str
    file: str
    line: int
    id: str | None
    raw: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that is left out: the rules that it breaks, and how."""

    place: Place
    rules: tuple[str, ...]
    reason: str

    @property
    def shown(self) -> str:
        """The place and the reason on one line."""
        place = self.place
        return f"{place.intake}/{place.file}:{place.line} (id {place.id!r}): {self.reason}"


@dataclass(frozen=True, slots=True)
class Placed(Generic[T]):
    """A parsed row and where it stands."""

    value: T
    place: Place


@dataclass(frozen=True, slots=True)
class Merged(Generic[T]):
    """The current rows, parsed or not, and how many rows a later intake replaced."""

    rows: list[Placed[T]]
    quarantined: list[Quarantined]
    superseded: int

    @property
    def current(self) -> int:
        """How many rows stand, good or bad."""
        return len(self.rows) + len(self.quarantined)


def intake_folders(raw: Path) -> list[Path]:
    """The intakes below a raw folder, oldest first, each checked against its manifest.

    Raises:
        DataError: there is none, or one was changed.
    """
    folders = sorted(path for path in (raw / "intakes").glob("[!.]*") if path.is_dir())
    if not folders:
        raise DataError(
            f"{raw}/intakes holds no intake; expected at least one folder of records",
            "take data in first: `nightloom run`",
        )
    return [verified(folder) for folder in folders]


def merge(
    folders: list[Path], file: str, parse: Callable[[Mapping[str, Any], str], T]
) -> Merged[T]:
    """The current rows of one file over all intakes; `parse` gets a row and its intake's name.

    An id that an intake holds twice keeps both rows here: a rule finds them.
    """
    latest: dict[str, list[tuple[Place, Line]]] = {}
    nameless: list[tuple[Place, Line]] = []
    total = 0
    for folder in folders:
        found: dict[str, list[tuple[Place, Line]]] = {}
        for place, line in _placed_lines(folder, file):
            total += 1
            rows = nameless if place.id is None else found.setdefault(place.id, [])
            rows.append((place, line))
        latest |= found
    current = [*nameless, *(item for name in sorted(latest) for item in latest[name])]
    merged: Merged[T] = Merged([], [], total - len(current))
    for place, line in current:
        if line.row is None:
            fault = str(line.fault)
            merged.quarantined.append(Quarantined(place, ("is_strict_json",), fault))
            continue
        try:
            merged.rows.append(Placed(parse(line.row, place.intake), place))
        except MisshapenError as error:
            merged.quarantined.append(Quarantined(place, (error.rule,), error.reason))
    return merged


def _placed_lines(folder: Path, file: str) -> Iterator[tuple[Place, Line]]:
    if not (folder / file).exists():
        return
    for line in read_lines(folder / file):
        identifier = (line.row or {}).get("id")
        name = identifier if isinstance(identifier, str) else None
        raw = line.raw.decode(errors="backslashreplace")
        yield Place(folder.name, file, line.number, name, raw), line
