"""Duplicates go, splits are stable, and nothing held out leaks into training."""

import random
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.curation.__main__ import Paths, run
from tasks.curation.params import Params
from tasks.curation.selection import Fate, select, select_documents, shared_groups, split_of
from tasks.curation.similarity import SimilarTexts, bands, jaccard, shingles, sketch
from tasks.records.files import read_records, read_rows, write_documents, write_records
from tasks.records.record import Document, Message, Record
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, output_folders
from tasks.stage.params import load_params

FILE = Path("params/curation.yaml")


def _params(**changes: Any) -> Params:
    values = load_params(Params, [FILE]).curation.model_dump()
    return Params.model_validate({"curation": values | changes})


def _record(identifier: str, question: str, answer: str = "It is so.", **more: Any) -> Record:
    record = Record(
        id=identifier,
        messages=(Message("user", question), Message("assistant", answer)),
        documents=(),
        slice="all",
        group=identifier,
        source="",
        license="",
        intake="1",
    )
    return replace(record, **more)


def _words(seed: int, count: int = 12) -> str:
    letters = random.Random(seed)
    return " ".join("".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(count))


def _many(count: int) -> list[Record]:
    return [_record(f"r{number:04}", f"What is {_words(number)}?") for number in range(count)]


def _of_split(split: str, prefix: str) -> str:
    names = (f"{prefix}{number}" for number in range(10_000))
    return next(name for name in names if split_of(name, _params().curation) == split)


def _fates(records: Sequence[Record]) -> dict[str, Fate]:
    return {fate.record.id: fate for fate in select(records, _params().curation)}


def test_an_exact_duplicate_goes_and_names_the_row_that_stays() -> None:
    fates = _fates([_record("b", "The same question?"), _record("a", "The same question?")])

    assert fates["a"].removal is None
    removal = fates["b"].removal
    assert removal is not None
    assert (removal.rule, removal.kept) == ("exact_duplicate", "a")


def test_the_row_of_the_earlier_intake_stays() -> None:
    old = _record("b", "The same question?")
    fates = _fates([replace(_record("a", "The same question?"), intake="2"), old])

    assert fates["b"].removal is None
    assert fates["a"].removal is not None


def test_a_near_duplicate_goes_and_a_templated_question_stays() -> None:
    text = _words(1, count=30)
    records = [
        _record("a", text),
        _record("b", f"{text}!"),
        _record("c", "What parameters does json.dump take?", "obj, fp"),
        _record("d", "What parameters does json.dumps take?", "obj"),
    ]

    fates = _fates(records)

    assert fates["b"].removal is not None
    assert fates["b"].removal.rule == "near_duplicate"
    assert fates["c"].removal is None
    assert fates["d"].removal is None


def test_a_training_row_like_a_held_out_one_goes() -> None:
    text = _words(2, count=12)
    test = _record(_of_split("test", "a"), text)
    train = _record(_of_split("train", "b"), text.replace(text[:6], "other1"))

    fates = _fates([test, train])

    removal = fates[train.id].removal
    assert fates[test.id].split == "test"
    assert removal is not None
    assert (removal.rule, removal.kept) == ("like_test", test.id)
    assert removal.similarity is not None
    assert 0.8 <= removal.similarity < 0.9


def test_too_short_and_too_long_rows_go() -> None:
    fates = _fates([_record("a", "Q?"), _record("b", "A question?", "x" * 1001)])

    assert [fates[name].removal.rule for name in "ab"] == [  # type: ignore[union-attr]
        "question_too_short",
        "answer_too_long",
    ]


def test_new_rows_never_move_old_ones() -> None:
    old = _many(60)
    before = {name: fate.split for name, fate in _fates(old).items()}

    after = _fates([*old, *(replace(r, id=f"new{r.id}") for r in _many(90)[60:])])

    assert {name: after[name].split for name in before} == before


def test_a_group_stays_together() -> None:
    records = [replace(record, group=f"g{i % 20}") for i, record in enumerate(_many(200))]
    fates = list(_fates(records).values())

    assert shared_groups(fates) == 0
    assert len({fate.split for fate in fates}) == 3


def test_a_document_that_a_record_needs_stays_even_as_a_duplicate() -> None:
    documents = [Document(name, "The same text.", "", "", "") for name in ("a", "b", "c")]
    record = replace(_record("r", "A question?"), documents=("c",))

    assert [item.id for item in select_documents(documents, [record])] == ["c"]


@given(st.text(), st.text())
def test_jaccard_is_symmetric_bounded_and_one_for_equals(first: str, second: str) -> None:
    a, b = shingles(first, 3), shingles(second, 3)

    assert 0 <= jaccard(a, b) == jaccard(b, a) <= 1
    assert jaccard(a, a) == 1


@pytest.mark.parametrize("similarity", [0.6, 0.8, 0.9, 0.99])
def test_the_bands_propose_nearly_every_pair_at_the_threshold(similarity: float) -> None:
    count = bands(similarity, 120)

    assert 1 - (1 - similarity ** (120 // count)) ** count >= 0.995


def test_the_index_finds_what_comparing_every_pair_finds() -> None:
    texts = [_words(number // 2, count=20) + " " + _words(number, count=1) for number in range(60)]
    sketches = sketch(texts, characters=4, permutations=120, seed=1)
    index = SimilarTexts(0.8, 120)
    found = []
    for key, item in enumerate(sketches):
        found.append(index.nearest(item))
        index.add(key, item)

    for key, item in enumerate(sketches):
        scores = [jaccard(item.shingles, other.shingles) for other in sketches[:key]]
        expected = max(scores, default=0.0)
        assert (found[key] is not None) == (expected >= 0.8)


def _accepted(root: Path, records: Sequence[Record]) -> Paths:
    with output_folders(root / "accepted") as (folder,):
        write_records(folder / "records.jsonl", records)
        write_documents(folder / "documents.jsonl", [Document("d", "Cafe\u0301", "", "", "")])
    return Paths(root / "accepted", root / "curated", root / "report", root / "scratch")


def test_every_record_has_a_line_in_the_lineage_and_two_runs_are_equal(tmp_path: Path) -> None:
    records = [*_many(150), _record("zz", "What is " + _words(3) + "?")]
    paths = _accepted(tmp_path, records)

    run(_params(), paths)
    first = folder_files(tmp_path / "curated")
    run(_params(), paths)

    assert folder_files(tmp_path / "curated") == first
    lineage = {row["id"]: row for row in read_rows(tmp_path / "curated/lineage.jsonl")}
    assert lineage.keys() == {record.id for record in records}
    assert lineage["zz"]["kept"] == "r0003"
    for split in ("train", "validation", "test"):
        for record in read_records(tmp_path / f"curated/{split}.jsonl"):
            assert lineage[record.id]["split"] == split
    (document,) = read_rows(tmp_path / "curated/documents.jsonl")
    assert document["text"] == "Café"
    assert read_metrics(tmp_path / "report")["leakage"]["shared_groups"] == 0


def test_an_empty_split_is_a_data_error_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split is empty"):
        run(_params(), _accepted(tmp_path, _many(1)))

    assert not (tmp_path / "curated").exists()
