"""What people have called right is a document too: asked again, it is found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.curation.__main__ import run
from tasks.records.schema import (
    FEEDBACK_SPLIT,
    Document,
    Message,
    Record,
    read_documents,
    read_records,
)
from tasks.records.tool_text import Call, said_text
from tasks.stage.metrics import read_metrics
from tests.unit.curation.test_curation import changed, many, named, sentence
from tests.unit.curation.test_feedback_split import reviewed
from tests.unit.curation.test_stage import accepted_rows

DOCUMENT = Document("d", "Cafes open at nine.", "", "", "")


def made(folder: Path, records: Sequence[Record], *documents: Document) -> dict[str, Document]:
    """Return what curation makes of records and documents: the documents, by id."""
    run(changed(), accepted_rows(folder, records, documents))
    return {item.id: item for item in read_documents(folder / "curated/documents.jsonl")}


def asked(count: int) -> list[Record]:
    return [
        reviewed(f"chatcmpl-{n:03}", f"Who is {sentence(n + 600)}?", sentence(n, 5))
        for n in range(count)
    ]


def test_what_is_learned_is_a_document_and_what_is_held_out_is_none(tmp_path: Path) -> None:
    found = made(tmp_path, [*many(120), *asked(60)], DOCUMENT)

    splits = {
        split: [row for row in read_records(tmp_path / f"curated/{split}.jsonl") if row.is_feedback]
        for split in ("train", "validation", FEEDBACK_SPLIT)
    }
    learned = [*splits["train"], *splits["validation"]]
    assert splits[FEEDBACK_SPLIT]
    assert len(learned) > 40
    assert set(found) == {"d"} | {row.id for row in learned}
    for row in learned:
        assert row.documents == (row.id,)
        assert (found[row.id].title, found[row.id].text) == (row.question, row.answer)
    assert all(row.documents == () for row in splits[FEEDBACK_SPLIT])
    metrics = read_metrics(tmp_path / "report")
    assert metrics["documents"] == {"kept": 1, "dropped": 0, "corrections": len(learned)}
    assert f"{len(learned)} more are made of feedback" in (tmp_path / "report/report.md").read_text(
        "utf-8"
    )


def test_a_correction_that_calls_a_tool_is_no_document(tmp_path: Path) -> None:
    calls = [
        replace(
            row,
            messages=(
                row.messages[0],
                Message("assistant", said_text("", [Call("find", {"who": row.id})])),
            ),
        )
        for row in asked(60)
    ]
    assert set(made(tmp_path, [*many(120), *calls], DOCUMENT)) == {"d"}


def test_data_without_documents_stay_without(tmp_path: Path) -> None:
    assert made(tmp_path, [*many(120), *asked(60)]) == {}
    assert "corrections" not in read_metrics(tmp_path / "report")["documents"]


def test_a_question_after_other_turns_is_none_and_one_after_a_system_turn_is(
    tmp_path: Path,
) -> None:
    group = named("train", "g")
    follows = reviewed("follows", "And who else?", sentence(3, 5), group)
    turns = (Message("user", "Who is it?"), Message("assistant", "Ada."), *follows.messages)
    told = reviewed("told", "Who keeps the keys?", sentence(4, 5), group)
    system = (Message("system", "Be short."), *told.messages)

    rows = [replace(follows, messages=turns), replace(told, messages=system)]
    found = made(tmp_path, [*many(120), *rows], DOCUMENT)

    assert set(found) == {"d", "told"}


def test_what_quotes_a_test_question_with_its_answer_is_none(tmp_path: Path) -> None:
    """A person's question must not stop promotion by a leak."""
    rows = many(120)
    run(changed(), accepted_rows(tmp_path, rows))
    test = read_records(tmp_path / "curated/test.jsonl")[0]
    long = f"{sentence(900, 40)} {test.question} {sentence(901, 40)}"
    quoting = reviewed("quoting", long, f"{test.answer} {sentence(902, 40)}", named("train", "g"))

    found = made(tmp_path, [*rows, quoting], DOCUMENT)

    assert quoting.id in {row.id for row in read_records(tmp_path / "curated/train.jsonl")}
    assert set(found) == {"d"}
    assert read_metrics(tmp_path / "report")["leaks"]["total"] == 0
