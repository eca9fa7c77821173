"""The stage as a whole: rows followed from their source line, masks, documents, memory."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.curation.__main__ import Paths, run
from tasks.records.schema import (
    SPLITS,
    Document,
    Record,
    read_records,
    read_rows,
    write_documents,
    write_records,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, output_folders
from tests.builders.intake_places import write_places
from tests.unit.curation.test_curation import PARAMS, changed, many, record, sentence


def accepted_rows(
    root: Path, records: Sequence[Record], documents: Sequence[Document] = ()
) -> Paths:
    with output_folders(root / "accepted") as (folder,):
        write_records(folder / "records.jsonl", records)
        write_documents(folder / "documents.jsonl", documents)
        write_places(folder, [item.id for item in records], intake="1")
    return Paths(root / "accepted", root / "curated", root / "report", root / "scratch")


def test_every_row_is_followed_to_its_source_line_and_two_runs_are_equal(tmp_path: Path) -> None:
    records = [*many(150), record("zz", "What is " + sentence(3) + "?", sentence(5003, 5))]
    paths = accepted_rows(tmp_path, records, [Document("d", "Cafe\u0301", "", "", "")])

    run(changed(), paths)
    first = folder_files(tmp_path / "curated")
    run(changed(), paths)

    assert folder_files(tmp_path / "curated") == first
    rows = list(read_rows(tmp_path / "curated/lineage.jsonl"))
    lineage = {row["id"]: row for row in rows if row["kind"] == "record"}
    for place, item in enumerate(records):
        found = lineage[item.id]
        assert (found["intake"], found["line"]) == ("1", place + 1)
        assert (found["file"], found["source_line"]) == ("source.csv", place + 2)
    assert lineage["zz"]["rule"] == "exact_duplicate"
    assert lineage["zz"]["kept"] == "r0003"
    for split in SPLITS:
        for item in read_records(tmp_path / f"curated/{split}.jsonl"):
            assert lineage[item.id]["split"] == split
    (document,) = read_rows(tmp_path / "curated/documents.jsonl")
    assert document["text"] == "Café"
    assert read_metrics(tmp_path / "report")["leaks"]["total"] == 0


def test_a_record_without_a_place_is_a_data_error(tmp_path: Path) -> None:
    paths = accepted_rows(tmp_path, many(60))
    with output_folders(paths.accepted) as (folder,):
        write_records(folder / "records.jsonl", many(61))
        write_documents(folder / "documents.jsonl", [])
        write_places(folder, [item.id for item in many(60)])

    with pytest.raises(DataError, match="where 1 of 61 accepted records came from, 'r0060'"):
        run(changed(), paths)


def test_what_is_masked_is_counted_and_shown_nowhere(tmp_path: Path) -> None:
    rows = many(120)
    rows[5] = record(
        "r0005", f"Who is {sentence(9)}?", "Ask jane.doe@example.com or 010-2345-6789."
    )
    rows[6] = replace(rows[6], rejected="Ask jane.doe@example.com in\u200b time.")
    page = Document("d", "Write to john.roe@example.org.", "", "", "")
    paths = accepted_rows(tmp_path, rows, [page])

    run(changed(), paths)

    masked = read_metrics(tmp_path / "report")["masked"]
    assert (masked["records"]["email"], masked["records"]["phone"]) == (2, 1)
    splits = (read_rows(tmp_path / f"curated/{split}.jsonl") for split in SPLITS)
    rejected = [row["rejected"] for split in splits for row in split if "rejected" in row]
    assert rejected == ["Ask [EMAIL] in time."]
    assert masked["documents"]["email"] == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file() and "accepted" not in path.parts]
    for path in left:
        text = path.read_text(encoding="utf-8")
        assert not any(part in text for part in ("jane.doe", "john.roe", "2345-6789")), path
    (document,) = read_rows(tmp_path / "curated/documents.jsonl")
    assert document["text"] == "Write to [EMAIL]."


def test_a_row_with_a_kind_to_drop_is_dropped(tmp_path: Path) -> None:
    rows = many(120)
    rows[5] = record("r0005", f"Who is {sentence(9)}?", "Ask jane.doe@example.com.")
    drop = PARAMS.personal_data.model_dump() | {"email": "drop"}

    run(changed(personal_data=drop), accepted_rows(tmp_path, rows))

    lineage = {row["id"]: row for row in read_rows(tmp_path / "curated/lineage.jsonl")}
    assert (lineage["r0005"]["split"], lineage["r0005"]["rule"]) == (None, "holds_email")


def test_a_document_that_a_record_needs_stays_even_as_a_duplicate(tmp_path: Path) -> None:
    documents = [Document(name, "The same text.", "", "", "") for name in ("a", "b", "c")]
    rows = [replace(row, documents=("c",)) for row in many(120)]

    run(changed(), accepted_rows(tmp_path, rows, documents))

    assert [row["id"] for row in read_rows(tmp_path / "curated/documents.jsonl")] == ["c"]
    rows = [r for r in read_rows(tmp_path / "curated/lineage.jsonl") if r["kind"] == "document"]
    assert {row["id"]: row["kept"] for row in rows} == {"a": "c", "b": "c", "c": None}


def test_an_empty_split_is_a_data_error_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split is empty"):
        run(changed(), accepted_rows(tmp_path, many(1)))

    assert not (tmp_path / "curated").exists()


@pytest.mark.slow
def test_memory_grows_by_less_than_three_kilobytes_a_record() -> None:
    """From 1,500 to 32,000: tables grow in steps, and a short stretch may hold one.

    `python -m tests.benchmarks.curation --rows 1000000` is the whole.
    """
    code = (
        "import sys, tempfile; from pathlib import Path;"
        "from tests.benchmarks._memory import peak_megabytes;"
        "from tests.benchmarks.curation import curate;"
        "from tests.builders.intake_places import make_accepted;"
        "root = Path(tempfile.mkdtemp());"
        "sizes = (1500, 32000);"
        "peaks = [peak_megabytes(curate, make_accepted(root / f'a{n}', n), root / str(n))"
        "         for n in sizes];"
        "print((peaks[1] - peaks[0]) * 1000 / (sizes[1] - sizes[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 3.0
