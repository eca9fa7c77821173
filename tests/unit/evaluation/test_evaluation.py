"""Evaluation: every system in every mode, numbers that agree with the rows, nulls with reasons."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.aggregates import abstention, row_metrics
from tasks.evaluation.comparisons import ComparisonSettings, compare_all
from tasks.evaluation.requests import choose_records, make_plain_requests, primary_mode
from tasks.evaluation.table import full_table, main
from tasks.lexical.chunking import Passage
from tasks.records.predictions import (
    DISTRACTOR,
    MODES,
    ROLES,
    SCORE_NAMES,
    Prediction,
    read_predictions,
)
from tasks.records.schema import Message, Record
from tasks.records.text import hash_share
from tasks.retrieval.index import Index, ScoredPassage
from tasks.scoring.answer_scores import abstains, length_ratio
from tasks.stage.errors import DataError
from tasks.stage.metrics import flatten, read_metrics
from tasks.statistics.significance import Inference

SYSTEMS = ("base", "adapter", *ROLES)
MARKERS = ["I don't know"]
SAYS_NO = partial(abstains, markers=MARKERS)
INFERENCE = Inference(confidence=0.95, power=0.8, resamples=100, seed=17)
share = partial(hash_share, salt="s")


def record(name: str, documents: tuple[str, ...] = ()) -> Record:
    turns = (Message("user", "q"), Message("assistant", "a"))
    return Record(name, turns, documents, "s", name, "test", "CC0", "n")


def ranked(*documents: str) -> list[ScoredPassage]:
    return [ScoredPassage(Passage(f"{d}#{n}", d, "", "t"), 1.0) for n, d in enumerate(documents)]


def prediction(output: str = "x", reference: str = "y", score: float = 0.5) -> Prediction:
    return Prediction(
        "base", "retrieved", "r", "s", "q", reference, output, "0", ("p#0",),
        score, score, score, score, 1.0, 0.5, 1, None, None, 3, False,
    )  # fmt: skip


def test_every_record_is_asked_in_every_mode_by_every_system(scored: Any) -> None:
    rows = read_predictions(scored.report / "predictions.parquet")
    asked = {(row.system, row.mode, row.record) for row in rows}
    offered = read_metrics(scored.report)["offered"]["system"]
    by_system = {system: {mode for one, mode, _ in asked if one == system} for system in SYSTEMS}
    left = {"student": "control", "control": "student"}[offered]
    whole = {"base", "adapter", offered}
    modes = {*MODES, DISTRACTOR}
    assert by_system == {name: modes for name in whole} | {left: {"retrieved"}}
    answerable = {row.record for row in rows if row.slice == "purpose"}
    assert {record for _, mode, record in asked if mode == DISTRACTOR} == answerable
    assert len(asked) == len(rows) == 8 * (3 * len(MODES) + 1) + 3 * len(answerable)


def test_the_metrics_are_the_means_of_the_rows(scored: Any) -> None:
    metrics = read_metrics(scored.report)
    rows = read_predictions(scored.report / "predictions.parquet")
    for system, modes in metrics["systems"].items():
        for mode in modes:
            chosen = [row for row in rows if (row.system, row.mode) == (system, mode)]
            for name in SCORE_NAMES:
                mean = sum(row.score(name) for row in chosen) / len(chosen)
                assert metrics["systems"][system][mode][name] == pytest.approx(mean)


def test_every_number_of_the_metrics_is_there_or_null_with_a_reason(scored: Any) -> None:
    metrics = read_metrics(scored.report)
    flat = flatten(metrics)
    for name, value in flat.items():
        assert value is not None or flat.get(f"{name}_reason"), name
    rows = read_predictions(scored.report / "predictions.parquet")
    for system, modes in metrics["systems"].items():
        chosen = [row for row in rows if (row.system, row.mode) == (system, "retrieved")]
        claims = [row for row in chosen if row.groundedness is not None]
        assert modes["retrieved"]["groundedness_records"] == len(claims)
        ratio = length_ratio([row.output for row in chosen], [row.reference for row in chosen])
        assert modes["retrieved"]["length_ratio"] == ratio
    for size in metrics["sizes"].values():
        assert size["peak_megabytes"] > size["megabytes"] > 0
        assert size["throughput_tokens_per_second"] > 0


def test_a_comparison_tells_how_sure_it_is_overall_and_by_slice(scored: Any) -> None:
    metrics = read_metrics(scored.report)
    for found in metrics["comparisons"].values():
        assert set(found["slices"]) == {"purpose", "unanswerable"}
        for one in (found, *found["slices"].values()):
            assert 0 < one["p_value"] <= one["p_value_holm"] <= 1
            assert one["low"] <= one["difference"] <= one["high"]
        assert sum(one["records"] for one in found["slices"].values()) == found["records"] == 8


def test_a_slice_has_its_interval_and_one_record_has_none() -> None:
    rows = [replace(prediction(score=s), record=str(s)) for s in (0.2, 0.4, 0.9)]
    alone = replace(prediction(score=0.7), slice="혼자", record="r")
    modes = {"retrieved": [*rows, alone]}
    settings = ComparisonSettings("token_f1", "retrieved", "student")
    found = compare_all(dict.fromkeys(SYSTEMS, modes), settings, [], INFERENCE).numbers()
    found = found["slices"]["base"]
    assert found["s"]["token_f1"] == pytest.approx(0.5)
    assert 0.2 <= found["s"]["low"] < 0.5 < found["s"]["high"] <= 0.9 + 1e-8
    assert (found["혼자"]["token_f1"], found["혼자"]["low"], found["혼자"]["high"]) == (
        0.7,
        None,
        None,
    )
    assert "one record" in found["혼자"]["low_reason"]


def test_rows_hold_what_they_rest_on_and_how_they_were_decoded(scored: Any) -> None:
    for row in read_predictions(scored.report / "predictions.parquet"):
        assert (row.groundedness is None) >= (row.mode == "closed_book")
        assert row.new_tokens <= 4
        assert not row.is_cut or row.new_tokens == 4


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
    for question in ("fine-tuning buy", " cost?", "teacher buy", "retrieval buy"):
        assert question in text
    for plot in ("scores", "slices", "tradeoff", "abstention"):
        assert (scored.report / f"{plot}.png").stat().st_size > 5000


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
    chosen = choose_records(old, 20, share, split="test")
    assert choose_records(list(reversed(old)), 20, share, split="test") == chosen
    with_one_more = choose_records([*old, record("new")], 20, share, split="test")
    assert len({item.id for item in chosen} - {item.id for item in with_one_more}) <= 1


def test_an_empty_test_split_is_an_error() -> None:
    with pytest.raises(DataError, match="test split is empty"):
        choose_records([], 1, share, split="test")


def test_without_documents_there_is_closed_book_alone(scored: Any) -> None:
    empty = replace(Index.load(scored.index), passages=(), lexical=None)
    questions = make_plain_requests(
        [record("a"), record("b")], [[], []], empty, passages=2, open_book=False
    )
    assert [question.mode for question in questions] == ["closed_book"] * 2


def test_oracle_without_gold_documents_holds_what_was_retrieved(scored: Any) -> None:
    index = Index.load(scored.index)
    found = [ranked("x", "y", "z")]
    by_mode = {
        q.mode: q.passages
        for q in make_plain_requests([record("a")], found, index, passages=2, open_book=True)
    }
    assert by_mode["oracle"] == by_mode["retrieved"]
    assert [passage.document for passage in by_mode["retrieved"]] == ["x", "y"]


def test_a_record_whose_gold_document_is_gone_is_not_asked_in_oracle(scored: Any) -> None:
    index = Index.load(scored.index)
    records = [record("a", ("gone",)), record("b", ("gone", "mod.f1"))]
    found = [ranked("x", "y"), ranked("x", "y")]
    questions = make_plain_requests(records, found, index, passages=2, open_book=True)
    asked = [(question.record.id, question.mode) for question in questions]
    assert ("a", "retrieved") in asked
    assert ("a", "oracle") not in asked
    assert ("b", "oracle") in asked


def test_an_abstention_is_known_by_its_beginning() -> None:
    assert abstains("i don’t know: x is not there", MARKERS)
    assert abstains("I don't know.", MARKERS)
    assert not abstains("It says: I don't know", MARKERS)


def test_abstention_has_its_known_values() -> None:
    no = "I don't know."
    rows = [prediction(no, no), prediction(no, "y"), prediction("x", no), prediction("x", no)]
    assert abstention(rows, SAYS_NO) == {
        "abstention_precision": 0.5,
        "abstention_recall": pytest.approx(1 / 3),
    }


def test_means_of_what_rows_rest_on_leave_out_those_that_have_none() -> None:
    no_claim = replace(prediction(), groundedness=None, unsupported=0)
    found = row_metrics([prediction(), no_claim], SAYS_NO)
    assert (found["groundedness"], found["groundedness_records"]) == (0.5, 1)
    assert (found["unsupported"], found["unsupported_records"]) == (0.5, 2)
    assert found["citation"] is None
    assert "cites" in str(found["citation_reason"])


def test_without_passages_groundedness_is_null_and_never_perfect() -> None:
    alone = replace(prediction(), retrieved=(), groundedness=None, unsupported=0)
    found = row_metrics([alone], SAYS_NO)
    for name in ("groundedness", "unsupported", "attribution", "citation"):
        assert (found[name], found[f"{name}_reason"]) == (None, "no passages were shown")


def test_answers_that_are_broken_or_cut_are_counted() -> None:
    rows = [prediction("서\ufffd"), replace(prediction(), is_cut=True), prediction(), prediction()]
    found = row_metrics(rows, SAYS_NO)
    assert (found["broken_outputs"], found["cut_outputs"]) == (0.25, 0.25)


def test_abstention_that_never_came_up_is_null_with_a_reason() -> None:
    found = abstention([prediction()], SAYS_NO)
    assert found["abstention_precision"] is None
    assert found["abstention_precision_reason"]
    assert found["abstention_recall_reason"]


def test_comparisons_take_the_primary_mode_and_are_paired() -> None:
    names = [f"r{number}" for number in range(5)]
    rows = {
        system: [replace(prediction(score=score), system=system, record=name) for name in names]
        for system, score in zip(SYSTEMS, (0.2, 0.9, 0.8, 0.7), strict=True)
    }
    grouped = {
        system: {"retrieved": found, "closed_book": [replace(r, token_f1=0.5) for r in found]}
        for system, found in rows.items()
    }
    assert primary_mode("retrieved", grouped["base"]) == "retrieved"
    settings = ComparisonSettings("token_f1", "retrieved", "student")
    found = compare_all(grouped, settings, [], INFERENCE).numbers()["comparisons"]
    assert found["adapter-base"]["difference"] == pytest.approx(0.7)
    assert found["student-adapter"]["low"] == pytest.approx(-0.1)
    assert found["student-control"]["high"] == pytest.approx(0.1)
    assert found["adapter-base"]["p_value"] == 2 / 2**5
    assert "4 comparisons" in found["adapter-base"]["family"]
    assert found["adapter-base"]["smallest_detectable"] is None
    assert "no variance" in found["adapter-base"]["smallest_detectable_reason"]
    control = compare_all(grouped, replace(settings, offered="control"), [], INFERENCE)
    assert ("control", "adapter") in control.night
    grouped["base"]["retrieved"] *= 2
    with pytest.raises(DataError, match="base has two answers to record r0"):
        compare_all(grouped, settings, [], INFERENCE)
    assert primary_mode("retrieved", {"closed_book"}) == "closed_book"
