"""Duplicates go, splits are stable, and every row can be followed from its source line on."""

import random
import string
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.curation.__main__ import Paths, run
from tasks.curation.params import Params
from tasks.curation.preparation import SPLITS, prepare, split_of
from tasks.curation.selection import select
from tasks.records.files import read_records, read_rows, write_documents, write_records
from tasks.records.record import Document, Message, Record
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, output_folders
from tasks.stage.params import load_params
from tests.unit.made import write_places

FILE = Path("params/curation.yaml")


def changed(**changes: Any) -> Params:
    values = load_params(Params, [FILE]).curation.model_dump()
    return Params.model_validate({"curation": values | changes})


PARAMS = changed().curation


def record(identifier: str, question: str, answer: str = "It is so.", **more: Any) -> Record:
    turns = (Message("user", question), Message("assistant", answer))
    made = Record(identifier, turns, (), "all", identifier, "", "", "1")
    return replace(made, **more)


def sentence(seed: int, count: int = 12) -> str:
    letters = random.Random(seed)
    return " ".join("".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(count))


def many(count: int) -> list[Record]:
    return [
        record(f"r{number:04}", f"What is {sentence(number)}?", sentence(number + 5000, 5))
        for number in range(count)
    ]


def named(split: str, prefix: str) -> str:
    names = (f"{prefix}{number}" for number in range(10_000))
    return next(name for name in names if SPLITS[split_of(name, PARAMS)] == split)


def fates(
    records: Sequence[Record], folder: Path
) -> dict[str, tuple[str, str | None, float | None]]:
    """Id -> (split or rule, id of the row kept, likeness)."""
    prepared = prepare(records, PARAMS, folder)
    removals = select(prepared, PARAMS)
    found: dict[str, tuple[str, str | None, float | None]] = {}
    for row, name in enumerate(prepared.ids):
        gone = removals.get(row)
        if gone is None:
            found[name] = (SPLITS[prepared.splits[row]], None, None)
        else:
            kept = None if gone.kept is None else prepared.ids[gone.kept]
            found[name] = (gone.rule, kept, gone.similarity)
    return found


def test_an_exact_duplicate_goes_and_names_the_row_that_stays(tmp_path: Path) -> None:
    found = fates([record("b", "The same question?"), record("a", "The same question?")], tmp_path)

    assert found["a"][0] in SPLITS
    assert found["b"] == ("exact_duplicate", "a", 1.0)


def test_the_row_of_the_earlier_intake_stays(tmp_path: Path) -> None:
    newer = replace(record("a", "The same question?"), intake="2")
    found = fates([newer, record("b", "The same question?")], tmp_path)

    assert found["b"][0] in SPLITS
    assert found["a"][:2] == ("exact_duplicate", "b")


def test_a_near_duplicate_goes_and_a_templated_question_stays(tmp_path: Path) -> None:
    text = sentence(1, count=30)
    records = [
        record("a", text),
        record("b", f"{text}!"),
        record("c", "What parameters does json.dump take?", "obj, fp"),
        record("d", "What parameters does json.dumps take?", "obj"),
        record(
            "e",
            "오늘 날씨가 참 좋은데 산책이나 같이 갈까요? 공원도 좋고 강가도 좋아요",
            "네 좋아요",
        ),
        record(
            "f",
            "저, 오늘 날씨가 참 좋은데 산책이나 같이 갈까요? 공원도 좋고 강가도 좋아요",
            "네 좋아요",
        ),
        record(
            "g", "今天天气很好我们一起去公园散步好不好呢然后再去河边坐一会儿看看风景聊聊天", "好的"
        ),
        record(
            "h", "!今天天气很好我们一起去公园散步好不好呢然后再去河边坐一会儿看看风景聊聊天", "好的"
        ),
    ]

    found = fates(records, tmp_path)

    for removed, kept in (("b", "a"), ("f", "e"), ("h", "g")):
        assert found[removed][:2] == ("near_duplicate", kept)
        assert (found[removed][2] or 0) >= 0.9
    assert {found[name][0] for name in "cd"} <= set(SPLITS)


def test_a_training_row_like_a_held_out_one_goes(tmp_path: Path) -> None:
    text = sentence(2, count=12)
    test = record(named("test", "a"), text)
    train = record(named("train", "b"), text.replace(text[:6], "other1"))

    found = fates([test, train], tmp_path)

    assert found[test.id][0] == "test"
    rule, kept, similarity = found[train.id]
    assert (rule, kept) == ("like_test", test.id)
    assert 0.8 <= (similarity or 0) < 0.9


@pytest.mark.parametrize(
    ("asked", "answer", "leaks"),
    [
        ("what does  json.dump do", "Another answer altogether, of other words.", True),
        ("What does the json.dump do?", "Another answer altogether, of other words.", True),
        ("What does json.dumps do?", "Another answer altogether, of other words.", False),
        ("What does pickle.dump do?", "Another answer altogether, of other words.", False),
    ],
)
def test_a_training_row_that_asks_a_test_question_goes(
    tmp_path: Path, asked: str, answer: str, leaks: bool
) -> None:
    # So that the words of the template are common ones.
    words = [sentence(number, 1) for number in range(40)]
    template = [record(named("validation", f"v{w}"), f"What does the {w} do?", w) for w in words]
    test = record(named("test", "a"), "What does json.dump do?", "Write a thing to a file.")
    train = record(named("train", "b"), asked, answer)

    found = fates([*template, test, train], tmp_path)

    assert found[train.id][0] == ("asks_test_question" if leaks else "train")
    assert found[train.id][1] == (test.id if leaks else None)
    assert found[test.id][0] == "test"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(
        st.tuples(st.sampled_from("abcd ef"), st.integers(1, 9), st.integers(0, 5)),
        min_size=2,
        max_size=24,
    ),
    cut=st.integers(1, 23),
)
def test_new_rows_never_move_an_old_row_to_another_split(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, int, int]], cut: int
) -> None:
    """Rows that repeat one another in every way; a train row may go, a held-out one never does."""
    rows = [
        record(f"r{place}", f"{letter * size} and {sentence(number)}", intake=f"{place >= cut:d}")
        for place, (letter, size, number) in enumerate(texts)
    ]
    folder = tmp_path_factory.mktemp("grown")
    before, after = fates(rows[:cut], folder), fates(rows, folder)

    for name, (fate, _, _) in before.items():
        if fate == "test":
            assert after[name][0] == "test"
        elif fate in SPLITS:
            assert after[name][0] == fate or after[name][0] not in SPLITS


def test_the_index_finds_what_comparing_every_pair_finds(tmp_path: Path) -> None:
    from tasks.curation.shingling import jaccard, shingles

    numbers = random.Random(7)
    rows = [record("r000", sentence(0, 20))]
    for place in range(1, 90):
        words = numbers.choice(rows).question.split()
        for _ in range(numbers.randint(0, 3)):
            words[numbers.randrange(len(words))] = sentence(place + 1000, 1)
        rows.append(record(f"r{place:03}", " ".join(words)))
    sets = [shingles(f"{row.question}\n{row.answer}", PARAMS.shingle_characters) for row in rows]

    found = fates(rows, tmp_path)

    stays: list[int] = []
    for place, row in enumerate(rows):
        best = max((jaccard(sets[place], sets[other]) for other in stays), default=0.0)
        repeats = found[row.id][0] in ("exact_duplicate", "near_duplicate")
        assert repeats == (best >= PARAMS.duplicate_similarity)
        if not repeats:
            stays.append(place)


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
    page = Document("d", "Write to john.roe@example.org.", "", "", "")
    paths = accepted_rows(tmp_path, rows, [page])

    run(changed(), paths)

    masked = read_metrics(tmp_path / "report")["masked"]
    assert (masked["records"]["email"], masked["records"]["phone"]) == (1, 1)
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


def test_memory_grows_by_less_than_two_kilobytes_a_record() -> None:
    """So a million stay below 2 GB; the difference of two sizes leaves out what is fixed."""
    code = (
        "import sys, tempfile; from pathlib import Path;"
        "from tests.benchmarks._memory import peak_megabytes;"
        "from tests.benchmarks._curation_memory import curate;"
        "from tests.unit.made import make_accepted;"
        "root = Path(tempfile.mkdtemp());"
        "sizes = (2000, 8000);"
        "peaks = [peak_megabytes(curate, make_accepted(root / f'a{n}', n), root / str(n))"
        "         for n in sizes];"
        "print((peaks[1] - peaks[0]) * 1000 / (sizes[1] - sizes[0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert float(done.stdout) < 2.0
