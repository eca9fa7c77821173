"""What was withdrawn, as it lies beside the intakes: intakes, and rows that left their source.

`withdrawn/intakes/NAME.json` takes an intake out of what is current. `withdrawn/rows/NAME.jsonl`
lists rows that were withdrawn while NAME was the newest intake: a later one brings a row back.
Validation and ingestion both read these files, so that they agree on which rows are current.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.stage.errors import DataError

FOLDER = "withdrawn"

# Written by validation beside the accepted rows, and read by curation: what was withdrawn.
WITHDRAWN_FILE = "withdrawn.jsonl"

_Entry = TypeVar("_Entry", bound=BaseModel)


class IntakeWithdrawal(BaseModel):
    """An intake that was taken back; `newest` is the newest intake that there was then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intake: str
    reason: str
    by: str
    when: str
    newest: str

    def covers(self, intake: str) -> bool:
        """Return whether an intake was taken in on top of this one, before it was withdrawn."""
        return self.intake <= intake <= self.newest


class RowWithdrawal(BaseModel):
    """A row that was withdrawn: its kind, and what it is known by.

    `key` is the digest of the id, in hex; of a row without an id that is text it is the digest of
    the line, and `id` is None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    id: str | None
    key: str = Field(pattern=r"^[0-9a-f]{32}$")
    reason: str
    when: str

    @property
    def digest(self) -> bytes:
        """Return the key as bytes."""
        return bytes.fromhex(self.key)


def intakes_file(raw: Path, name: str) -> Path:
    """Return where the withdrawal of an intake lies."""
    return raw / FOLDER / "intakes" / f"{name}.json"


def rows_file(raw: Path, newest: str) -> Path:
    """Return where the rows lie that were withdrawn while an intake was the newest."""
    return raw / FOLDER / "rows" / f"{newest}.jsonl"


def withdrawn_intakes(raw: Path) -> dict[str, IntakeWithdrawal]:
    """Return the intakes that were withdrawn, by name.

    Raises:
        DataError: a file does not say so.
    """
    paths = sorted((raw / FOLDER / "intakes").glob("[!.]*.json"))
    return {path.stem: _parsed(IntakeWithdrawal, path, path.read_bytes()) for path in paths}


def withdrawn_rows(raw: Path) -> Mapping[str, Sequence[RowWithdrawal]]:
    """Return the rows that were withdrawn, by the newest intake that there was then, ascending.

    Raises:
        DataError: a line does not say so.
    """
    found: dict[str, list[RowWithdrawal]] = defaultdict(list)
    for path in sorted((raw / FOLDER / "rows").glob("[!.]*.jsonl")):
        for line in path.read_bytes().splitlines():
            found[path.stem].append(_parsed(RowWithdrawal, path, line))
    return found


def current_intakes(raw: Path) -> list[Path]:
    """Return the finished intakes below a raw folder that were not withdrawn, oldest first."""
    withdrawn = withdrawn_intakes(raw)
    folders = (path for path in (raw / "intakes").glob("[!.]*") if path.is_dir())
    return sorted(path for path in folders if path.name not in withdrawn)


def _parsed(kind: type[_Entry], path: Path, content: bytes) -> _Entry:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise DataError(
            f"{path} does not say what was withdrawn: {' '.join(str(error).split())[:300]}. "
            "Without it rows would be current again that somebody took back",
            f"`dvc checkout {path.parents[2]}` brings back what was recorded",
        ) from None
