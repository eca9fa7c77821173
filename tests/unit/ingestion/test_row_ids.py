"""Rows that change nothing keep their split, whatever source they come from."""

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tasks.curation.params import Params as CurationParams
from tasks.curation.preparation import split_of
from tasks.ingestion.intakes import Intake, take_in
from tasks.ingestion.row_formats import record_line
from tasks.ingestion.row_ids import question_digest
from tasks.ingestion.sources import python_docs
from tasks.records.readers import canonical_json, parse_line
from tasks.records.schema import Record
from tasks.stage.outputs import write_manifest
from tasks.stage.params import load_params
from tasks.validation.features import parse_record
from tasks.validation.raw_rows import intake_folders
from tests.builders.ingestion import current_rows, ingestion_params
from tests.builders.sources_of_rows import OFFERS, REVISION, Rows

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TOPICS = (
    ("Where is {} kept?", "It is in room {}."),
    ("{}은 어디에 있나요?", "{}번 방에 있습니다."),
    ("{} 在哪里?", "在 {} 号房间。"),
    ("Wo liegt {}?", "In Raum {}."),
)


def made_rows(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Rows without ids in four languages, each with a question of its own."""
    rows = []
    for number in range(first, first + count):
        asked, answered = TOPICS[number % len(TOPICS)]
        name = f"part {number:03}"
        rows.append({"question": asked.format(name), "answer": answered.format(number)})
    return rows


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


class Place:
    """A folder with a source in it, and the raw folder of its nights."""

    def __init__(self, root: Path, offer: str) -> None:
        self.root, self.raw = root, root / "raw"
        root.mkdir(parents=True, exist_ok=True)
        self._offer = OFFERS[offer]
        self._nights = 0

    def night(self, rows: Rows, **changes: Any) -> Intake | None:
        params = ingestion_params(self._offer(self.root, rows) | changes)
        self._nights += 1
        now = NOW + timedelta(days=self._nights)
        return take_in(params, self.raw, now, accepted=self.root / "none").intake

    def records(self) -> list[Record]:
        current = current_rows(self.raw).rows()
        return [parse_record(row.line.row or {}, row.intake.name, row.source) for row in current]

    def splits(self) -> dict[str, int]:
        """The split of each question."""
        return splits_of(self.records())


def splits_of(records: Sequence[Record]) -> dict[str, int]:
    curation = load_params(CurationParams, [Path("params/curation.yaml")]).curation
    assert len({record.id for record in records}) == len(records)
    return {record.question: split_of(record.group, curation) for record in records}


def deleted(rows: Rows) -> Rows:
    return [row for number, row in enumerate(rows) if number % 7 != 3]


def inserted(rows: Rows) -> Rows:
    return [*made_rows(5, first=900), *rows[:50], *made_rows(5, first=950), *rows[50:]]


def shuffled(rows: Rows) -> Rows:
    return random.Random(3).sample(list(rows), len(rows))


def corrected(rows: Rows) -> Rows:
    return [row | {"answer": "Nobody knows."} if n % 50 == 9 else row for n, row in enumerate(rows)]


CHANGES = {"delete": deleted, "insert": inserted, "shuffle": shuffled, "correct": corrected}


@pytest.mark.parametrize("offer", OFFERS)
def test_no_change_moves_the_split_of_a_row_that_stays(tmp_path: Path, offer: str) -> None:
    rows = made_rows(120)
    place = Place(tmp_path / "all", offer)
    place.night(rows)
    before = place.splits()
    assert len(set(before.values())) == 3

    for name, change in CHANGES.items():
        fresh = Place(tmp_path / name, offer)
        fresh.night(change(rows))
        after = fresh.splits()
        kept = before.keys() & after.keys()
        assert len(kept) >= 100
        assert {asked: after[asked] for asked in kept} == {asked: before[asked] for asked in kept}


@pytest.mark.parametrize("offer", OFFERS)
def test_a_night_after_a_change_takes_in_what_is_new_alone(tmp_path: Path, offer: str) -> None:
    rows = made_rows(120)
    place = Place(tmp_path, offer)
    place.night(rows)
    before = place.splits()

    assert place.night(deleted(rows)) is None
    assert place.night(shuffled(rows)) is None
    more = place.night(inserted(rows))
    assert more is not None
    assert more.records == 10
    assert place.splits().items() >= before.items()


@pytest.mark.parametrize("offer", OFFERS)
def test_a_corrected_answer_takes_the_place_of_the_old_one(tmp_path: Path, offer: str) -> None:
    rows = made_rows(120)
    place = Place(tmp_path, offer)
    place.night(rows)
    before, ids = place.splits(), {record.question: record.id for record in place.records()}

    changed = corrected(rows)
    intake = place.night(changed)

    assert intake is not None
    assert (intake.records, intake.unnamed) == (3, 3)
    found = {record.question: record for record in place.records()}
    assert {asked: record.id for asked, record in found.items()} == ids
    assert place.splits() == before
    answers = {record.question: record.answer for record in place.records()}
    assert answers == {row["question"]: row["answer"] for row in changed}
    # The same again, in another order, is nothing new; corrected once more it is.
    assert place.night(shuffled(changed)) is None
    assert place.night(rows) is not None
    assert {record.answer for record in place.records()} == {row["answer"] for row in rows}
    assert place.splits() == before


def test_two_answers_to_one_question_are_two_rows_of_one_split(tmp_path: Path) -> None:
    rows = made_rows(20)
    place = Place(tmp_path, "jsonl")
    place.night(rows)
    other = rows[4] | {"answer": "Another answer."}

    assert place.night([*rows, other]) is not None

    both = [record for record in place.records() if record.question == other["question"]]
    assert sorted(record.answer for record in both) == sorted([rows[4]["answer"], other["answer"]])
    assert len({record.group for record in both}) == 1
    # One of the two is corrected: the other stays as it is.
    place.night([*rows, other | {"answer": "A third answer."}])
    both = [record for record in place.records() if record.question == other["question"]]
    assert sorted(record.answer for record in both) == ["A third answer.", rows[4]["answer"]]


def test_what_one_row_corrects_is_told_by_all_that_it_answers(tmp_path: Path) -> None:
    def about(text: str, answer: str) -> dict[str, Any]:
        turns = [("system", text), ("user", "Sum this up."), ("assistant", answer)]
        return {"messages": [{"role": role, "content": said} for role, said in turns]}

    place = Place(tmp_path, "jsonl")
    place.night([about("A long text.", "Short."), about("Another text.", "Other.")])

    # The first row went, and a row on a third text came: it corrects nothing.
    place.night([about("Another text.", "Other."), about("A third text.", "Third.")])
    assert sorted(record.answer for record in place.records()) == ["Other.", "Short.", "Third."]
    place.night([about("Another text.", "Mended."), about("A third text.", "Third.")])
    assert sorted(record.answer for record in place.records()) == ["Mended.", "Short.", "Third."]


def test_where_several_rows_ask_the_same_none_is_replaced(tmp_path: Path) -> None:
    jokes = [{"question": "Tell me a joke.", "answer": f"Joke {n}."} for n in range(6)]
    place = Place(tmp_path, "jsonl")
    place.night(jokes[:3])

    place.night(jokes[3:])

    assert sorted(record.answer for record in place.records()) == [row["answer"] for row in jokes]


def test_own_ids_win_and_keep_the_split_of_a_corrected_row(tmp_path: Path) -> None:
    rows = [{"id": f"faq-{n}"} | row for n, row in enumerate(made_rows(60))]
    place = Place(tmp_path, "csv")
    place.night(rows)
    before = place.splits()

    place.night(corrected(shuffled(rows)))

    assert {record.id for record in place.records()} == {row["id"] for row in rows}
    assert {record.group for record in place.records()} == {row["id"] for row in rows}
    assert place.splits() == before


def test_a_source_that_shows_a_part_replaces_no_row_without_an_id(tmp_path: Path) -> None:
    rows = [row | {"changed": n} for n, row in enumerate(made_rows(12))]
    place = Place(tmp_path, "sql")
    entry = OFFERS["sql"](tmp_path, rows)
    section = entry["sql"] | {"records": {"query": "SELECT * FROM faq", "since": "changed"}}
    place.night(rows, sql=section)

    place.night([*rows, rows[3] | {"answer": "Corrected.", "changed": 99}], sql=section)

    answers = [r.answer for r in place.records() if r.question == rows[3]["question"]]
    assert sorted(answers) == sorted([rows[3]["answer"], "Corrected."])


@pytest.mark.parametrize(
    ("row", "same"),
    [
        ({"question": "Why?", "answer": "a"}, {"question": " why? ", "answer": "b"}),
        ({"prompt": "Why?", "completion": "a"}, {"prompt": "Why?", "completion": "b"}),
        (
            {"prompt": [{"role": "user", "content": "Why?"}], "completion": "a"},
            {"prompt": "Why?", "completion": [{"role": "assistant", "content": "b"}]},
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "Why?"},
                    {"role": "assistant", "content": "a"},
                ]
            },
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "WHY?"},
                    {"role": "assistant", "content": "b"},
                ]
            },
        ),
        (
            {"instruction": "Why?", "input": "x", "output": "a"},
            {"instruction": "Why?", "input": "x", "output": "b"},
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "e\u0301"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            {"conversations": [{"from": "human", "value": "é"}, {"from": "gpt", "value": "b"}]},
        ),
    ],
)
def test_what_is_asked_is_the_same_in_every_shape(row: Any, same: Any) -> None:
    first, second = (
        record_line(parse_line(1, canonical_json(each))).row or {} for each in (row, same)
    )
    assert first["id"] != second["id"]
    assert first["id"].rpartition("-")[0] == second["id"].rpartition("-")[0]
    groups = {parse_record(each, "1").group for each in (first, second)}
    assert groups == {f"row-{question_digest(first)}"}


def old_intake(raw: Path, source: str, rows: Rows, file: str, *, kind: str = "records") -> None:
    """An intake as it was written when a night had one source and digests named none."""
    name = "20251231T000000Z-0"
    folder = raw / "intakes" / name
    folder.mkdir(parents=True)
    for file_kind in ("records", "documents"):
        lines = [canonical_json(row) for row in rows if file_kind == kind]
        (folder / f"{file_kind}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    count = len(rows)
    table = pyarrow.table(
        {
            "kind": [kind] * count,
            "line": pyarrow.array(range(1, count + 1), pyarrow.int64()),
            "file": [file] * count,
            "source_line": pyarrow.array(range(1, count + 1), pyarrow.int64()),
        }
    )
    parquet.write_table(table, folder / "origins.parquet")
    about = {
        "name": name, "source": source, "origin": [file], "records": count, "documents": 0,
        "faulty": 0, "unnamed": count if source == "files" else 0, "repeated": 0,
        "when": "2025-12-31T00:00:00+00:00", "source_updated": None, "since": {},
        "python": "3.11.9",
    }  # fmt: skip
    (folder / "intake.json").write_text(json.dumps(about))
    write_manifest(folder)


def old_rows(kind: str, rows: Rows, file: str) -> Rows:
    """Rows under the ids that they got before: of the hub by place, of files by all content."""
    if kind == "hub":
        return [{"id": f"{file}/{n}"} | row for n, row in enumerate(rows)]
    import hashlib

    return [
        {"id": f"row-{hashlib.sha256(canonical_json(row)).hexdigest()[:20]}"} | row for row in rows
    ]


@pytest.mark.parametrize(("kind", "offer"), [("hub", "hub"), ("files", "jsonl")])
def test_rows_of_old_intakes_keep_their_ids_and_come_in_once(
    tmp_path: Path, kind: str, offer: str
) -> None:
    rows = made_rows(120)
    place = Place(tmp_path, offer)
    file = f"{tmp_path / 'set'}/train" if kind == "hub" else "rows.jsonl"
    old = old_rows(kind, rows, file)
    old_intake(place.raw, kind, old, file)
    before = place.splits()
    names = {row["question"]: row["id"] for row in old}

    # The source has another name now than its kind, as params ask for one.
    assert place.night(rows, name="faq") is None
    assert place.night(deleted(rows), name="faq") is None
    assert place.night(shuffled(rows), name="faq") is None
    changed = place.night(corrected(rows), name="faq")
    assert changed is not None
    assert changed.records == 3
    assert {record.question: record.id for record in place.records()} == names
    assert place.splits() == before
    assert place.night(corrected(rows), name="faq") is None
    more = place.night(inserted(corrected(rows)), name="faq")
    assert more is not None
    assert more.records == 10
    assert place.splits().items() >= before.items()


def packages(numbers: Sequence[int], *, wrong: int | None = None) -> list[dict[str, Any]]:
    """What the collecting child of python_docs prints of a package with so many functions."""
    lines: list[dict[str, Any]] = []
    for number in numbers:
        name = f"pack.find_{'abcdefghij'[number % 10]}{number}"
        said = f"Return the place of item {number} in the store of all items."
        if number == wrong:
            said = f"Return the corrected place of item {number} in the other store."
        lines.append(
            {
                "package": "pack", "name": name, "owner": "pack", "kind": "function",
                "signature": "(item, store)", "bare_signature": None,
                "parameters": ["item", "store"], "docstring": said,
            }
        )  # fmt: skip
    return [*lines, {"package": "pack", "names": [line["name"] for line in lines]}]


@pytest.mark.slow
def test_python_docs_keep_their_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"name": "docs", "kind": "python_docs", "python_docs": {"packages": ["pack"]}}
    found = {}
    numbers = list(range(80))
    offered = {
        "all": packages(numbers),
        "delete": packages([number for number in numbers if number % 7]),
        "insert": packages([*range(200, 210), *numbers]),
        "shuffle": packages(random.Random(1).sample(numbers, 80)),
        "correct": packages(numbers, wrong=11),
    }
    for name, lines in offered.items():
        monkeypatch.setattr(python_docs, "_collect", lambda _, lines=lines: lines)
        raw = tmp_path / name
        take_in(ingestion_params(entry), raw, NOW, accepted=raw / "none")
        current = current_rows(raw).rows()
        records = [parse_record(row.line.row or {}, "1") for row in current]
        curation = load_params(CurationParams, [Path("params/curation.yaml")]).curation
        found[name] = {record.id: split_of(record.group, curation) for record in records}

    assert len(set(found["all"].values())) == 3
    for after in found.values():
        kept = found["all"].keys() & after.keys()
        assert len(kept) > 100
        assert all(after[name] == found["all"][name] for name in kept)
    assert found["correct"].keys() == found["all"].keys()


def test_the_hub_is_read_by_its_own_ids_where_it_has_them(tmp_path: Path) -> None:
    rows = [{"id": n, **row} for n, row in enumerate(made_rows(5))]
    place = Place(tmp_path, "hub")
    place.night(rows)
    assert [record.id for record in place.records()] == ["0", "1", "2", "3", "4"]


def test_documents_of_old_intakes_keep_their_ids_too(tmp_path: Path) -> None:
    rows = [row | {"text": ""} for row in made_rows(20)]  # all splits have the same columns
    place = Place(tmp_path, "hub")
    file = f"{tmp_path / 'set'}/test"
    texts = [{"text": f"The text of part {n}."} for n in range(10)]
    empty = {"question": "", "answer": ""}
    old_intake(place.raw, "hub", old_rows("hub", texts, file), file, kind="documents")
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "test.jsonl"
    hub = {"name": str(tmp_path / "set"), "revision": REVISION, "documents_split": "test"}

    path.write_text("".join(json.dumps(row | empty) + "\n" for row in texts[::-1]))
    intake = place.night(rows, hub=hub)

    assert intake is not None
    assert (intake.records, intake.documents) == (20, 0)


def test_a_limit_keeps_the_sample_of_rows_whose_answers_are_corrected(tmp_path: Path) -> None:
    rows = made_rows(120)
    place = Place(tmp_path, "csv")
    place.night(rows, limit=30)
    before = place.splits()

    place.night([row | {"answer": f"New: {row['answer']}"} for row in rows], limit=30)

    assert len(before) == 30
    assert place.splits() == before
    assert all(record.answer.startswith("New: ") for record in place.records())


def test_a_source_that_gets_another_name_keeps_the_ids_of_its_rows(tmp_path: Path) -> None:
    rows = made_rows(60)
    place = Place(tmp_path, "jsonl")
    place.night(rows, name="first")
    place.night(corrected(rows), name="first")
    before = {record.id for record in place.records()}

    assert place.night(shuffled(corrected(rows)), name="second") is None
    assert {record.id for record in place.records()} == before


def test_a_running_number_that_is_named_otherwise_is_no_id(tmp_path: Path) -> None:
    def numbered(rows: Rows) -> Rows:
        return [{"id": n} | row for n, row in enumerate(rows)]

    mapped = {"columns": {"records": {"id": "line"}}}
    place = Place(tmp_path, "csv")
    place.night(numbered(made_rows(60)), **mapped)
    before = place.splits()

    place.night(numbered(deleted(made_rows(60))), **mapped)

    assert all(record.id.startswith("row-") for record in place.records())
    assert place.splits() == before


def in_cells(rows: Rows) -> Rows:
    """The rows as a table has them: messages as JSON in a cell, one document by its name."""
    return [
        {
            "messages": json.dumps(
                [
                    {"role": "user", "content": row["question"]},
                    {"role": "assistant", "content": row["answer"]},
                ],
                ensure_ascii=False,
            )
        }
        for row in rows
    ]


@pytest.mark.parametrize("offer", ["csv", "jsonl", "parquet"])
def test_rows_that_an_older_version_read_as_text_keep_their_ids(tmp_path: Path, offer: str) -> None:
    rows = made_rows(40)
    place = Place(tmp_path, offer)
    old = old_rows("files", in_cells(rows), "rows")
    old_intake(place.raw, "files", old, "rows")

    # Their turns are read now, so that each comes in once more, in place of the text.
    intake = place.night(in_cells(rows))
    assert intake is not None
    assert (intake.records, intake.unnamed) == (40, 40)
    names = {row["question"]: kept["id"] for row, kept in zip(rows, old, strict=True)}
    assert {record.question: record.id for record in place.records()} == names
    before = place.splits()

    assert place.night(in_cells(shuffled(rows))) is None
    assert place.night(in_cells(corrected(rows))) is not None
    assert {record.question: record.id for record in place.records()} == names
    assert place.splits() == before


def test_our_own_rows_that_come_back_are_rows_without_ids(tmp_path: Path) -> None:
    rows = made_rows(30)
    first = Place(tmp_path / "first", "csv")
    first.night(in_cells(rows))
    (folder,) = intake_folders(first.raw)
    ours = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]

    second = Place(tmp_path / "second", "jsonl")
    intake = second.night(ours)

    assert intake is not None
    assert intake.unnamed == len(ours)
    assert {record.id for record in second.records()} == {row["id"] for row in ours}


@pytest.mark.parametrize(
    ("wrong", "changes"),
    [
        ({"answer": 5}, {"columns": {"as_text": ["answer"]}}),
        ({"tools": [{"name": "clock"}]}, {"columns": {"records": {"tools": "other_tools"}}}),
        ({"label": False}, {"columns": {"records": {"label": "other_label"}}}),
    ],
    ids=["answers as numbers", "tools", "labels"],
)
def test_a_row_that_was_refused_is_replaced_once_params_are_mended(
    tmp_path: Path, wrong: dict[str, Any], changes: dict[str, Any]
) -> None:
    rows = [row | wrong for row in made_rows(24)]
    place = Place(tmp_path, "jsonl")
    place.night(rows)
    current = current_rows(place.raw).rows()
    names = {row.id for row in current}

    assert place.night(rows, **changes) is not None

    records = place.records()
    assert {record.id for record in records} == names
    assert len(records) == 24
    assert place.night(rows, **changes) is None


def test_rows_of_which_nobody_can_tell_what_they_ask_correct_none(tmp_path: Path) -> None:
    place = Place(tmp_path, "jsonl")
    place.night([{"Frage": "Why?", "Antwort": "So."}, *made_rows(3)])

    place.night([{"Frage": "When?", "Antwort": "Now."}, *made_rows(3)])

    current = list(current_rows(place.raw).rows())
    asked = {(row.line.row or {}).get("Frage") for row in current}
    assert {"Why?", "When?"} < asked
    assert len({row.id for row in current}) == 5


def test_class_labels_of_an_old_hub_intake_keep_their_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = [{"question": row["question"], "answer": n % 2} for n, row in enumerate(made_rows(20))]
    place = Place(tmp_path, "hub")
    file = f"{tmp_path / 'set'}/train"
    old = old_rows("hub", rows, file)
    old_intake(place.raw, "hub", old, file)
    features = {
        "question": datasets.Value("string"),
        "answer": datasets.ClassLabel(names=["나쁨", "좋음"]),
    }
    made = datasets.Dataset.from_list(rows, datasets.Features(features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)

    assert place.night(rows) is not None

    found = {record.question: record for record in place.records()}
    assert {asked: record.id for asked, record in found.items()} == {
        row["question"]: row["id"] for row in old
    }
    assert {record.answer for record in found.values()} == {"나쁨", "좋음"}
