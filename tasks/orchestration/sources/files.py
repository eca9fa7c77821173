"""Rows from files that the user names: JSONL, CSV or Parquet."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.records.readers import Line, read_lines


def read_files(paths: Sequence[str], columns: Mapping[str, str]) -> Iterator[Line]:
    """The lines of several files, in order; relative paths count from the working directory.

    Raises:
        DataError: a file is missing or of an unknown kind.
    """
    for path in paths:
        yield from read_lines(Path(path).expanduser(), columns)
