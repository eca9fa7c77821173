"""Every accepted record can be followed back to the line of the file that it came from."""

from contextlib import closing
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tasks.stage.errors import DataError
from tasks.validation.raw_rows import Origins, PlacesWriter


def _origins(folder: Path, rows: list[tuple[str, int, str, int]]) -> None:
    names = ("kind", "line", "file", "source_line")
    table = pyarrow.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    parquet.write_table(table, folder / "origins.parquet")


def _places(folder: Path) -> list[dict[str, object]]:
    return list(parquet.read_table(folder / "places.parquet").to_pylist())


def test_places_join_the_lines_of_an_intake_with_their_sources(tmp_path: Path) -> None:
    rows = [("documents", 1, "d.csv", 9), ("records", 2, "b.csv", 5), ("records", 1, "a.csv", 7)]
    _origins(tmp_path, rows)
    with closing(PlacesWriter(tmp_path)) as writer:
        writer.write(Origins.read(tmp_path, "records"), ["x", "y"], [1, 2])
    intake = tmp_path.name
    assert _places(tmp_path) == [
        {"id": "x", "intake": intake, "line": 1, "file": "a.csv", "source_line": 7},
        {"id": "y", "intake": intake, "line": 2, "file": "b.csv", "source_line": 5},
    ]


def test_an_intake_without_origins_is_its_own_source(tmp_path: Path) -> None:
    with closing(PlacesWriter(tmp_path)) as writer:
        writer.write(Origins.read(tmp_path, "records"), ["x"], [3])
    (place,) = _places(tmp_path)
    assert (place["file"], place["source_line"]) == ("records.jsonl", 3)


def test_no_accepted_record_gives_a_file_without_rows(tmp_path: Path) -> None:
    with closing(PlacesWriter(tmp_path)) as writer:
        writer.write(Origins.read(tmp_path, "records"), [], [])
    assert _places(tmp_path) == []


@pytest.mark.parametrize("line", [0, 2, 9])
def test_a_line_that_the_origins_do_not_know_is_a_data_error(tmp_path: Path, line: int) -> None:
    _origins(tmp_path, [("records", 1, "a.csv", 7), ("records", 3, "a.csv", 8)])
    with pytest.raises(DataError, match=f"line {line} of"):
        Origins.read(tmp_path, "records").of([1, line])
