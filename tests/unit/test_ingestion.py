"""A night takes in what is new or changed, in a folder of its own, and nothing otherwise."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.orchestration.ingestion import IngestionParams, take_in
from tasks.orchestration.intakes import intake_folders
from tasks.stage.errors import DataError
from tasks.stage.outputs import folder_files, verified

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Write = Callable[..., IngestionParams]


@pytest.fixture
def given(tmp_path: Path) -> Write:
    """Writes record and document rows into files; gives the params that read them."""

    def write(
        records: list[Any], documents: list[Any] | None = None, limit: int | None = None
    ) -> IngestionParams:
        for name, rows in (("records", records), ("documents", documents or [])):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return _params(
            source="files",
            limit=limit,
            files={
                "records": [str(tmp_path / "records.jsonl")],
                "documents": [str(tmp_path / "documents.jsonl")],
            },
        )

    return write


def _params(**changes: Any) -> IngestionParams:
    content = yaml.safe_load(Path("params/ingestion.yaml").read_text(encoding="utf-8"))
    return IngestionParams.model_validate(content | changes)


def _rows(folder: Path, name: str = "records") -> list[Any]:
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _ask(identifier: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"id": identifier, "question": f"Is it {identifier}?", "answer": answer} | more


def test_the_first_night_takes_everything_in(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), _ask("b")], [{"id": "d", "text": "A text."}])

    intake = take_in(params, tmp_path / "raw", NOW)

    assert intake is not None
    assert intake.name.startswith("20260102T030405Z-")
    (folder,) = intake_folders(tmp_path / "raw")
    assert verified(folder).name == intake.name
    assert [row["id"] for row in _rows(folder)] == ["a", "b"]
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    assert (content["records"], content["documents"]) == (2, 1)


def test_a_night_with_nothing_new_writes_nothing(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a")])
    take_in(params, tmp_path / "raw", NOW)
    before = folder_files(tmp_path / "raw")

    assert take_in(params, tmp_path / "raw", NOW + timedelta(days=1)) is None
    assert folder_files(tmp_path / "raw") == before


def test_only_new_and_changed_rows_come_in(given: Write, tmp_path: Path) -> None:
    take_in(given([_ask("a"), _ask("b")]), tmp_path / "raw", NOW)

    changed = given([_ask("a"), _ask("b", "no"), _ask("c")])
    take_in(changed, tmp_path / "raw", NOW + timedelta(days=1))

    first, second = intake_folders(tmp_path / "raw")
    assert [(row["id"], row["answer"]) for row in _rows(second)] == [("b", "no"), ("c", "yes")]
    reference = json.loads((second / "reference.json").read_text(encoding="utf-8"))
    assert reference["records"] == 2
    assert first.name < second.name


def test_a_row_that_changes_back_comes_in_again(given: Write, tmp_path: Path) -> None:
    for day, answer in enumerate(["yes", "no", "yes"]):
        take_in(given([_ask("a", answer)]), tmp_path / "raw", NOW + timedelta(days=day))

    assert len(intake_folders(tmp_path / "raw")) == 3


def test_intakes_sort_by_time_even_when_the_clock_is_set_back(given: Write, tmp_path: Path) -> None:
    first = take_in(given([_ask("a")]), tmp_path / "raw", NOW)
    second = take_in(given([_ask("b")]), tmp_path / "raw", NOW - timedelta(days=9))

    assert first is not None
    assert second is not None
    assert first.name < second.name


def test_a_broken_line_goes_along_as_it_is_and_once(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), '{"id": "b", ', '{"id": NaN}'])
    take_in(params, tmp_path / "raw", NOW)

    (folder,) = intake_folders(tmp_path / "raw")
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ['{"id": "b", ', '{"id": NaN}']
    assert take_in(params, tmp_path / "raw", NOW + timedelta(days=1)) is None


def test_a_limit_keeps_the_documents_its_records_need(given: Write, tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(100)]
    records = [_ask(name, documents=[f"d{name}"]) for name in names]
    documents = [{"id": f"d{name}", "text": f"Text {name}"} for name in names]

    intake = take_in(given(records, documents, limit=10), tmp_path / "raw", NOW)

    (folder,) = intake_folders(tmp_path / "raw")
    needed = {row["documents"][0] for row in _rows(folder)}
    assert intake is not None
    assert (intake.records, intake.documents) == (10, 20)
    assert needed <= {row["id"] for row in _rows(folder, "documents")}


def test_a_missing_file_leaves_nothing_behind(tmp_path: Path) -> None:
    files = {"records": ["nowhere.jsonl"], "documents": []}

    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        take_in(_params(source="files", files=files), tmp_path / "raw", NOW)

    assert not (tmp_path / "raw").exists()


def test_an_earlier_intake_that_was_edited_stops_the_night(given: Write, tmp_path: Path) -> None:
    take_in(given([_ask("a")]), tmp_path / "raw", NOW)
    (folder,) = intake_folders(tmp_path / "raw")
    (folder / "records.jsonl").write_text("{}\n", encoding="utf-8")

    with pytest.raises(DataError, match="does not match"):
        take_in(given([_ask("b")]), tmp_path / "raw", NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "files"},
        {"source": "hub"},
        {"packages": []},
        {"limit": 0},
        {"source": "web"},
        {"hub": {"name": "a/b", "config": None, "revision": "main", "split": "train"}},
    ],
)
def test_params_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        _params(**changes)
