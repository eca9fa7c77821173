"""Where accepted records came from: `places.parquet`, one row each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from tasks.records.schema import PLACES_FILE
from tasks.stage.errors import DataError
from tasks.validation.figures import bring_back

ORIGINS_FILE = "origins.parquet"

_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("intake", pyarrow.string()),
        ("line", pyarrow.int64()),
        ("file", pyarrow.string()),
        ("source_line", pyarrow.int64()),
    ]
)


@dataclass(frozen=True)
class Origins:
    """The source file and line of each line of an intake's `records.jsonl` or `documents.jsonl`.

    `lines` rise; `files` are names, `source_lines` numbers, both by the position in `lines`. None
    of them where the intake says nothing: its own file is the source then.
    """

    intake: Path
    kind: str
    lines: NDArray[np.int64] | None
    files: Any
    source_lines: NDArray[np.int64] | None

    @classmethod
    def read(cls, intake: Path, kind: str) -> "Origins":
        """The origins of an intake's records or documents, as `kind` says."""
        path = intake / ORIGINS_FILE
        if not path.exists():
            return cls(intake, kind, None, None, None)
        table = parquet.read_table(
            path, columns=["line", "file", "source_line"], filters=[("kind", "=", kind)]
        ).sort_by("line")
        files = compute.dictionary_encode(table["file"].combine_chunks())
        return cls(intake, kind, table["line"].to_numpy(), files, table["source_line"].to_numpy())

    def of(self, lines: Sequence[int]) -> tuple[Any, NDArray[np.int64]]:
        """The source files and source lines of lines of the intake's file.

        Raises:
            DataError: the intake's origins do not know a line.
        """
        wanted = np.asarray(lines, np.int64)
        if self.lines is None or self.source_lines is None:
            return pyarrow.array([f"{self.kind}.jsonl"] * len(wanted), pyarrow.string()), wanted
        places = np.searchsorted(self.lines, wanted)
        found = places < len(self.lines)
        found[found] = self.lines[places[found]] == wanted[found]
        if not found.all():
            raise DataError(
                f"{self.intake / ORIGINS_FILE} does not say where line {wanted[~found][0]} of "
                f"{self.kind}.jsonl came from; expected one row a line, so that a row can be "
                "followed back to its source",
                bring_back(self.intake),
            )
        files = self.files.take(pyarrow.array(places)).cast(pyarrow.string())
        return files, self.source_lines[places]


class PlacesWriter:
    """Writes `places.parquet` a batch at a time; the rows keep the order in which they come."""

    def __init__(self, folder: Path) -> None:
        self._writer = parquet.ParquetWriter(folder / PLACES_FILE, _SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def write(self, origins: Origins, ids: Sequence[str], lines: Sequence[int]) -> None:
        """Write the rows of one intake's records."""
        if not ids:
            return
        files, source_lines = origins.of(lines)
        intakes = pyarrow.array([origins.intake.name] * len(ids), pyarrow.string())
        columns = [
            pyarrow.array(ids, pyarrow.string()),
            intakes,
            pyarrow.array(lines, pyarrow.int64()),
            files,
            pyarrow.array(source_lines, pyarrow.int64()),
        ]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=_SCHEMA))
