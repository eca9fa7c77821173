"""Evaluation: every system in every mode, numbers that agree with the rows, nulls with reasons."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.aggregates import abstains, abstention, compare, primary_mode, retrieval
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.questions import choose_records, pose
from tasks.evaluation.table import full_table, main
from tasks.records.passages import Passage
from tasks.records.predictions import (
    MODES,
    ROLES,
    SCORE_NAMES,
    Prediction,
    read_predictions,
    write_predictions,
)
from tasks.records.record import Message, Record
from tasks.serving.retrieval import Index, ScoredPassage
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml

SYSTEMS = ("base", "adapter", *ROLES)
MARKERS = ["I don't know"]


def record(name: str, documents: tuple[str, ...] = ()) -> Record:
    turns = (Message("user", "q"), Message("assistant", "a"))
    return Record(name, turns, documents, "s", name, "test", "CC0", "n")


def ranked(*documents: str) -> list[ScoredPassage]:
    return [ScoredPassage(Passage(f"{d}#{n}", d, "", "t"), 1.0) for n, d in enumerate(documents)]


def prediction(output: str = "x", reference: str = "y", score: float = 0.5) -> Prediction:
    return Prediction(
        "base", "retrieved", "r", "s", "q", reference, output, "0", ("p#0",),
        score, score, score, score, 1.0,
    )  # fmt: skip


def test_every_record_is_asked_in_every_mode_by_every_system(scored: Any) -> None:
    rows = read_predictions(scored.report / "predictions.parquet")
    asked = {(row.system, row.mode, row.record) for row in rows}
    offered = read_metrics(scored.report)["offered"]["system"]
    by_system = {system: {mode for one, mode, _ in asked if one == system} for system in SYSTEMS}
    left = {"student": "twin", "twin": "student"}[offered]
    whole = {"base", "adapter", offered}
    assert by_system == {name: set(MODES) for name in whole} | {left: {"retrieved"}}
    assert len(asked) == len(rows) == 8 * (3 * len(MODES) + 1)


def test_the_metrics_are_the_means_of_the_rows(scored: Any) -> None:
    metrics = read_metrics(scored.report)
    rows = read_predictions(scored.report / "predictions.parquet")
    for system, modes in metrics["systems"].items():
        for mode in modes:
            chosen = [row for row in rows if (row.system, row.mode) == (system, mode)]
            for name in SCORE_NAMES:
                mean = sum(row.score(name) for row in chosen) / len(chosen)
                assert metrics["systems"][system][mode][name] == pytest.approx(mean)


def test_systems_with_other_weights_answer_differently(scored: Any) -> None:
    rows = read_predictions(scored.report / "predictions.parquet")
    outputs = {
        system: tuple(r.output for r in rows if (r.system, r.mode) == (system, "retrieved"))
        for system in SYSTEMS
    }
    assert len(set(outputs.values())) == len(SYSTEMS)


def test_closed_book_holds_no_passage_and_oracle_holds_the_gold_one(scored: Any) -> None:
    for row in read_predictions(scored.report / "predictions.parquet"):
        assert bool(row.retrieved) == (row.mode != "closed_book")
        if row.mode == "oracle" and row.slice == "purpose":
            assert row.retrieved == tuple(f"mod.f{row.record[1:]}#{n}" for n in range(2))


def test_the_report_tells_what_each_step_bought(scored: Any) -> None:
    text = (scored.report / "report.md").read_text()
    for question in ("fine-tuning buy", "smaller model cost", "teacher buy", "retrieval buy"):
        assert question in text
    for plot in ("scores.png", "tradeoff.png"):
        assert (scored.report / plot).stat().st_size > 5000


def test_the_table_is_printed_from_the_report(
    scored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--report", str(scored.report)]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == full_table(read_metrics(scored.report))
    assert printed.startswith("| token F1 (exact match) | closed book | retrieved | oracle |")
    assert main(["--report", str(tmp_path)]) == 1


def test_new_records_displace_few_of_the_chosen() -> None:
    old = [record(f"r{n}") for n in range(50)]
    chosen = choose_records(old, 20, "s")
    assert choose_records(list(reversed(old)), 20, "s") == chosen
    with_one_more = choose_records([*old, record("new")], 20, "s")
    assert len({item.id for item in chosen} - {item.id for item in with_one_more}) <= 1


def test_an_empty_test_split_is_an_error() -> None:
    with pytest.raises(DataError, match="test split is empty"):
        choose_records([], 1, "s")


def test_without_documents_there_is_closed_book_alone(scored: Any) -> None:
    empty = replace(Index.load(scored.index), passages=(), lexical=None)
    questions = pose([record("a"), record("b")], [[], []], empty, passages=2)
    assert [question.mode for question in questions] == ["closed_book"] * 2


def test_oracle_without_gold_documents_holds_what_was_retrieved(scored: Any) -> None:
    index = Index.load(scored.index)
    found = [ranked("x", "y", "z")]
    by_mode = {q.mode: q.passages for q in pose([record("a")], found, index, passages=2)}
    assert by_mode["oracle"] == by_mode["retrieved"]
    assert [passage.document for passage in by_mode["retrieved"]] == ["x", "y"]


def test_recall_and_reciprocal_rank_have_their_known_values() -> None:
    records = [record("1", ("a",)), record("2", ("a", "b")), record("3", ("a",)), record("4")]
    found = [ranked("a"), ranked("x", "b", "a"), ranked("x"), ranked("x")]
    metrics = retrieval(records, found)
    assert metrics["records"] == 3
    assert metrics["recall_at_1"] == pytest.approx(1 / 3)
    assert metrics["recall_at_5"] == metrics["recall_at_10"] == pytest.approx(2 / 3)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 2) / 3)


@pytest.mark.parametrize(
    ("item", "reason"),
    [(record("1", ("a",)), "no documents"), (record("1"), "no record names")],
)
def test_retrieval_that_cannot_be_measured_is_null_with_a_reason(item: Record, reason: str) -> None:
    metrics = retrieval([item], [[]])
    assert metrics["mrr"] is None
    assert reason in str(metrics["mrr_reason"])


def test_an_abstention_is_known_by_its_beginning() -> None:
    assert abstains("i don’t know: x is not there", MARKERS)
    assert abstains("I don't know.", MARKERS)
    assert not abstains("It says: I don't know", MARKERS)


def test_abstention_has_its_known_values() -> None:
    no = "I don't know."
    rows = [prediction(no, no), prediction(no, "y"), prediction("x", no), prediction("x", no)]
    assert abstention(rows, MARKERS) == {
        "abstention_precision": 0.5,
        "abstention_recall": pytest.approx(1 / 3),
    }


def test_abstention_that_never_came_up_is_null_with_a_reason() -> None:
    found = abstention([prediction()], MARKERS)
    assert found["abstention_precision"] is None
    assert found["abstention_precision_reason"]
    assert found["abstention_recall_reason"]


def test_comparisons_take_the_primary_mode_and_are_paired() -> None:
    params = EvaluationParams.model_validate(
        read_yaml(Path("params/evaluation.yaml")) | {"resamples": 100}
    )
    grouped = {
        system: {"retrieved": [prediction(score=score)] * 5, "closed_book": [prediction()] * 5}
        for system, score in zip(SYSTEMS, (0.2, 0.9, 0.8, 0.7), strict=True)
    }
    mode = primary_mode("retrieved", grouped["base"])
    found = compare(grouped, mode, "student", params)
    assert found["adapter-base"]["difference"] == pytest.approx(0.7)
    assert found["student-adapter"]["low"] == pytest.approx(-0.1)
    assert found["student-twin"]["high"] == pytest.approx(0.1)
    assert "twin-adapter" in compare(grouped, mode, "twin", params)
    assert primary_mode("retrieved", {"closed_book"}) == "closed_book"


def test_predictions_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [prediction("서울", "서울은"), replace(prediction(), retrieved=())]
    write_predictions(tmp_path / "p.parquet", rows)
    assert read_predictions(tmp_path / "p.parquet") == rows
