"""Feedback is held out in a split of its own: the test split stays, and is never learned from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.curation.__main__ import run
from tasks.curation.preparation import prepare, split_of
from tasks.curation.selection import hold_out_feedback, select, written_splits
from tasks.records.schema import (
    CURATED_SPLITS,
    FEEDBACK_SPLIT,
    SPLITS,
    Record,
    read_records,
    read_rows,
    record_line,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tests.unit.curation.test_curation import PARAMS, changed, many, named, record, sentence
from tests.unit.curation.test_stage import accepted_rows

pytestmark = pytest.mark.slow


def reviewed(identifier: str, question: str, answer: str, group: str | None = None) -> Record:
    """Return feedback of a night after the one that brought the other rows."""
    return replace(
        record(identifier, question, answer),
        group=group or f"asked {question}",
        slice="feedback",
        intake="2",
        is_feedback=True,
    )


def curated(records: Sequence[Record], folder: Path) -> dict[str, list[Record]]:
    """Return the splits that curation writes; those of a split that is not there are missing."""
    run(changed(), accepted_rows(folder, records))
    found = {split: folder / f"curated/{split}.jsonl" for split in CURATED_SPLITS}
    return {split: read_records(path) for split, path in found.items() if path.exists()}


def served(rows: Sequence[Record]) -> list[Record]:
    """Return feedback of every kind about rows: corrected, confirmed, reworded, and new ones."""
    found = []
    for place, row in enumerate(rows):
        question, answer = row.question, row.answer
        other = sentence(90_000 + place, 5)
        found += [
            reviewed(f"fix-{row.id}", question, other),
            reviewed(f"loud-{row.id}", question.upper(), sentence(80_000 + place, 5)),
            reviewed(f"same-{row.id}", question, answer),
            reviewed(f"word-{row.id}", question, f"{answer} {sentence(place, 1)}"),
            reviewed(f"near-{row.id}", f"Tell me, {question}", answer),
            reviewed(f"new-{row.id}", f"Who is {sentence(70_000 + place)}?", other),
        ]
    return found


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[Record]]]:
    """What curation writes of 150 rows: without feedback, and with 900 rows of it."""
    rows = many(150)
    return {
        "before": curated(rows, tmp_path_factory.mktemp("before")),
        "after": curated([*rows, *served(rows)], tmp_path_factory.mktemp("after")),
    }


def test_the_other_rows_stay_where_they_are(nights: dict[str, dict[str, list[Record]]]) -> None:
    before, after = nights["before"], nights["after"]

    assert set(before) == set(SPLITS)
    assert after["test"] == before["test"]
    for split in ("train", "validation"):
        assert [row for row in after[split] if not row.is_feedback] == before[split]


def test_no_feedback_is_in_the_test_split_and_none_about_it_is_learned(
    nights: dict[str, dict[str, list[Record]]],
) -> None:
    after = nights["after"]
    learned = {row.id for split in ("train", "validation") for row in after[split]}
    held = {row.id for row in after[FEEDBACK_SPLIT]}

    assert not any(row.is_feedback for row in after["test"])
    assert all(row.is_feedback for row in after[FEEDBACK_SPLIT])
    for row in after["test"]:
        about = {f"{kind}-{row.id}" for kind in ("fix", "loud", "same", "word", "near")}
        assert not about & learned
        assert f"fix-{row.id}" in held
    corrected = [row for row in after["train"] if row.id.startswith("fix-")]
    assert len(corrected) > 80  # what is asked of rows that are no test rows is learned


def test_held_out_feedback_is_not_learned_in_other_words(
    nights: dict[str, dict[str, list[Record]]],
) -> None:
    after = nights["after"]
    learned = {row.id.partition("-")[2] for row in after["train"] if row.id.startswith("near-")}
    own = {row.id for row in after[FEEDBACK_SPLIT] if _split(row) == FEEDBACK_SPLIT}
    held = {name.partition("-")[2] for name in own if name.startswith(("same-", "word-"))}

    assert len(held) > 5
    assert not held & learned


def _split(row: Record) -> str:
    return CURATED_SPLITS[split_of(row.group, PARAMS, is_feedback=row.is_feedback)]


def test_the_report_tells_the_split_and_the_lineage_follows_its_rows(tmp_path: Path) -> None:
    rows = many(120)
    asked = [reviewed(f"f{n}", f"Who is {sentence(n + 600)}?", sentence(n, 5)) for n in range(60)]

    found = curated([*rows, *asked], tmp_path)[FEEDBACK_SPLIT]

    metrics = read_metrics(tmp_path / "report")
    assert metrics["splits"][FEEDBACK_SPLIT] == len(found) > 0
    assert metrics["slices"][FEEDBACK_SPLIT] == {"all": 0, "feedback": len(found)}
    assert metrics["slices"]["test"]["feedback"] == 0
    assert metrics["leaks"]["total"] == 0
    lineage = {row["id"]: row["split"] for row in read_rows(tmp_path / "curated/lineage.jsonl")
               if row["kind"] == "record"}  # fmt: skip
    assert {name for name, split in lineage.items() if split == FEEDBACK_SPLIT} == {
        row.id for row in found
    }
    assert "| slice | train | validation | test | feedback |" in (
        tmp_path / "report/report.md"
    ).read_text("utf-8")


def test_without_feedback_there_is_no_split_of_it(tmp_path: Path) -> None:
    found = curated(many(120), tmp_path)

    assert FEEDBACK_SPLIT not in found
    metrics = read_metrics(tmp_path / "report")
    assert list(metrics["splits"]) == list(metrics["slices"]) == list(SPLITS)
    assert all(b"is_feedback" not in record_line(row) for row in found["train"])


def test_an_empty_test_split_is_said_not_to_take_feedback(tmp_path: Path) -> None:
    rows = [reviewed(f"f{n}", f"Who is {sentence(n)}?", sentence(n + 500, 5)) for n in range(90)]

    with pytest.raises(DataError, match=r"test split is empty: .*90 of feedback, which is never"):
        run(changed(), accepted_rows(tmp_path, rows))


def test_a_correction_by_one_word_is_learned_and_a_repeated_one_once(tmp_path: Path) -> None:
    text = sentence(5, 30)
    group = named("train", "g")
    rows = [
        *many(120),
        record("row", "What is it?", f"{text} first", group=group),
        reviewed("fix", "What is it?", f"{text} other", group),
        reviewed("again", "What is it?", f"{text} other", group),
    ]

    found = curated(rows, tmp_path)["train"]

    assert {row.id for row in found} & {"row", "fix", "again"} == {"row", "again"}


KINDS = st.sampled_from(["fix", "loud", "same", "word", "near", "new"])


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(chosen=st.sets(st.tuples(st.integers(0, 59), KINDS), max_size=60), newer=st.booleans())
def test_whatever_people_ask_nothing_of_the_test_split_is_learned(
    chosen: set[tuple[int, str]], newer: bool, tmp_path: Path
) -> None:
    """The feedback came before the rows, or after them."""
    rows = many(60)
    of_kind = {row.id: row for row in served(rows)}
    asked = [of_kind[f"{kind}-{rows[place].id}"] for place, kind in sorted(chosen)]
    if not newer:
        asked = [replace(row, intake="0") for row in asked]

    alone = _splits(rows, tmp_path)
    found = _splits([*rows, *asked], tmp_path)

    assert {name: split for name, split in found.items() if name in of_kind}.keys() <= {
        row.id for row in asked
    }
    assert {name: found.get(name) for name in alone} == alone
    tests = {name for name, split in alone.items() if split == "test"}
    for row in asked:
        assert found.get(row.id) != "test"
        kind, _, about = row.id.partition("-")
        if about in tests and kind != "new":
            assert found.get(row.id) in (None, FEEDBACK_SPLIT)


def _splits(records: Sequence[Record], folder: Path) -> dict[str, str]:
    """Return the split of each row that stays."""
    prepared = prepare(records, PARAMS, folder)
    prepared, removals = hold_out_feedback(prepared, select(prepared, PARAMS))
    written = written_splits(prepared, removals)
    return {
        name: written[prepared.splits[row]]
        for row, name in enumerate(prepared.ids)
        if row not in removals
    }
