"""Every rule of promotion can refuse, and only on its own ground."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import Decision, decide
from tasks.promotion.params import Params
from tasks.records.predictions import (
    INJECTED,
    MODES,
    ROLES,
    SCORE_NAMES,
    Prediction,
    write_predictions,
)
from tasks.stage.errors import DataError
from tasks.stage.params import load_params

SYSTEMS = ("base", "adapter", *ROLES)
PARAMS = load_params(Params, [Path("params/promotion.yaml")]).promotion
NO_LEAKS: dict[str, Any] = {"questions": 0, "few_shot": 0, "documents": 0, "groups": 0}
SCORES = {"base": 0.2, "adapter": 0.8, "student": 0.75, "twin": 0.7}
OFFERED: dict[str, Any] = {
    "name": "24",
    "system": "student",
    "text": "it paid",
    "gain": {"value": 0.05},
    "keeps_enough": True,
}

RETRIEVAL = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")

Change = Callable[[dict[str, Any], list[Prediction]], list[Prediction] | None]


def prediction(system: str, mode: str, number: int) -> Prediction:
    # Systems differ by another amount on every record, as scores do.
    score = SCORES[system] + 0.01 * (number * (1 + SYSTEMS.index(system)) % 5)
    return Prediction(
        system=system,
        mode=mode,
        record=f"r{number}",
        slice="s",
        question="q",
        reference="a",
        output="a",
        prompt_sha256="0",
        retrieved=(),
        exact_match=score,
        token_f1=score,
        rouge_l=score,
        chrf=score,
        length_ratio=1.0,
        groundedness=None,
        unsupported=0,
        attribution=None,
        citation=None,
        first_token_ms=1.0,
        latency_ms=1.0,
        new_tokens=1,
        is_cut=False,
    )


def judged(
    folder: Path,
    model: Any = "adapter",
    change: Change | None = None,
    modes: Any = MODES,
    leaks: dict[str, Any] | None = None,
) -> Decision:
    scores: dict[str, Any] = dict.fromkeys(SCORE_NAMES, 0.5)
    scores |= {"abstention_recall": 0.5, "abstention_precision": None}
    scores["abstention_precision_reason"] = "no answer abstained"
    scores |= {"length_ratio": 1.0, "groundedness": None, "groundedness_reason": "none was shown"}
    metrics: dict[str, Any] = {
        "systems": {s: {m: dict(scores) for m in modes} for s in SYSTEMS},
        "offered": dict(OFFERED),
        "retrieval": dict.fromkeys(RETRIEVAL, 0.9),
    }
    if modes != MODES:
        metrics["retrieval"] = {"mrr": None, "mrr_reason": "the data set has no documents"}
    rows = [prediction(s, m, n) for s in SYSTEMS for m in modes for n in range(20)]
    rows = (change(metrics, rows) if change else None) or rows
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_predictions(folder / "predictions.parquet", rows)
    write_leaks(folder, NO_LEAKS if leaks is None else leaks)
    return decide(PARAMS, folder, folder / "curation", model=model, reigning="3")


def write_leaks(folder: Path, leaks: dict[str, Any]) -> None:
    (folder / "curation").mkdir(exist_ok=True)
    example = {"way": "questions", "test": "t1", "where": "r9"}
    content = {"leaks": leaks, "leak_examples": [example]}
    (folder / "curation" / "metrics.json").write_text(json.dumps(content))


def failed(decision: Decision) -> set[str]:
    bad = {item.rule: item.warns for item in decision.reasons if not item.passed}
    assert (decision.verdict == "refuse") == (not all(bad.values()))
    return set(bad)


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_a_good_model_is_promoted_with_every_rule_told(tmp_path: Path, model: str) -> None:
    decision = judged(tmp_path, model)
    assert decision.verdict == "promote"
    rules = [item.rule for item in decision.reasons]
    first = ["retrieval", "no_leak", "evidence", "same_records", "power", "beats_base"]
    assert rules[:6] == first
    assert ("retention" in rules) == (model == "student")


def drop(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    del metrics["systems"]["base"]["oracle"]["chrf"]


def infinite(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    metrics["systems"]["student"]["closed_book"]["rouge_l"] = float("nan")


def null_score(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    metrics["systems"]["adapter"]["retrieved"] |= {"token_f1": None, "token_f1_reason": "x"}


def null_without_reason(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    del metrics["systems"]["adapter"]["retrieved"]["abstention_precision_reason"]


def no_system(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    del metrics["systems"]["student"]


def no_mode(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    del metrics["systems"]["adapter"]["oracle"]


def no_recall(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    del metrics["retrieval"]["recall_at_5"]


def no_gain(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    del metrics["retrieval"]["ndcg_at_10"]


def no_length(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    metrics["systems"]["base"]["retrieved"] |= {"length_ratio": None, "length_ratio_reason": "x"}


def a_truth(metrics: dict[str, Any], rows: list[Prediction]) -> None:
    metrics["systems"]["adapter"]["oracle"]["exact_match"] = True


@pytest.mark.parametrize(
    "change",
    [
        drop,
        infinite,
        null_score,
        null_without_reason,
        no_system,
        no_mode,
        no_recall,
        a_truth,
        no_gain,
        no_length,
    ],
)
def test_evidence_with_a_hole_refuses(tmp_path: Path, change: Change) -> None:
    assert failed(judged(tmp_path, change=change)) == {"evidence"}


def test_a_gain_that_chance_could_make_refuses(tmp_path: Path) -> None:
    def weak(_: dict[str, Any], rows: list[Prediction]) -> list[Prediction]:
        return [
            replace(row, token_f1=0.2 + 0.3 * (int(row.record[1:]) % 2))
            if row.system == "adapter"
            else replace(row, token_f1=0.2 + 0.28 * (int(row.record[1:]) % 3 == 0))
            for row in rows
        ]

    decision = judged(tmp_path, change=weak)
    assert failed(decision) == {"beats_base"}
    (reason,) = (item for item in decision.reasons if item.rule == "beats_base")
    assert reason.value is not None
    assert reason.value <= 0.0 == reason.bound


def test_a_model_equal_to_the_base_refuses(tmp_path: Path) -> None:
    same = lambda _, rows: [replace(row, token_f1=0.5) for row in rows]  # noqa: E731
    assert failed(judged(tmp_path, change=same)) == {"power", "beats_base"}


def test_scores_without_variance_refuse_whatever_they_gain(tmp_path: Path) -> None:
    flat = lambda _, rows: [replace(row, token_f1=SCORES[row.system]) for row in rows]  # noqa: E731
    decision = judged(tmp_path, change=flat)
    assert failed(decision) == {"power"}
    (reason,) = (item for item in decision.reasons if item.rule == "power")
    assert "no variance was seen: all 20 differences are +0.6" in reason.text


@pytest.mark.parametrize(("kept", "text"), [(4, "takes about"), (1, "1 records show no variance")])
def test_too_few_records_refuse_and_say_how_many_it_takes(
    tmp_path: Path, kept: int, text: str
) -> None:
    def few(_: dict[str, Any], rows: list[Prediction]) -> list[Prediction]:
        left = [row for row in rows if int(row.record[1:]) < kept]
        odd = {("base", "r1"): 0.6}
        return [replace(r, token_f1=odd.get((r.system, r.record), r.token_f1)) for r in left]

    decision = judged(tmp_path, change=few)
    assert failed(decision) == {"power"}
    (reason,) = (item for item in decision.reasons if item.rule == "power")
    assert text in reason.text
    assert reason.bound == PARAMS.max_detectable


def test_systems_scored_on_different_records_refuse(tmp_path: Path) -> None:
    fewer = lambda _, rows: [r for r in rows if (r.system, r.record) != ("base", "r3")]  # noqa: E731
    assert failed(judged(tmp_path, change=fewer)) == {"same_records"}


def test_a_system_that_was_never_asked_refuses(tmp_path: Path) -> None:
    none = lambda _, rows: [row for row in rows if row.system != "adapter"]  # noqa: E731
    expected = {"same_records", "power", "beats_base", "stops"}
    assert failed(judged(tmp_path, change=none)) == expected


def test_scores_that_are_not_finite_refuse(tmp_path: Path) -> None:
    lost = lambda _, rows: [replace(row, token_f1=float("nan")) for row in rows]  # noqa: E731
    assert failed(judged(tmp_path, change=lost)) == {"same_records", "power", "beats_base"}


def test_a_model_that_never_stops_refuses(tmp_path: Path) -> None:
    def endless(metrics: dict[str, Any], rows: list[Prediction]) -> list[Prediction]:
        return [replace(row, is_cut=row.system == "adapter") for row in rows]

    assert failed(judged(tmp_path, change=endless)) == {"stops"}
    assert failed(judged(tmp_path, "student", endless)) == set()


def test_answers_to_passages_that_give_orders_change_no_verdict(tmp_path: Path) -> None:
    """Even of a model that obeyed every one of them, or of a base that answered all perfectly."""

    def injected(metrics: dict[str, Any], rows: list[Prediction]) -> list[Prediction]:
        posed = [
            replace(row, mode=INJECTED, output="PELICAN", token_f1=float(row.system == "base"))
            for row in rows
            if row.mode == "retrieved"
        ]
        for system in SYSTEMS:
            metrics["systems"][system][INJECTED] = dict(metrics["systems"][system]["retrieved"])
        metrics["injections"] = {system: {"obeyed": 1.0} for system in SYSTEMS}
        return [*rows, *posed]

    for model in ("adapter", "student"):
        clean = judged(tmp_path, model)
        assert clean.verdict == "promote"
        assert judged(tmp_path, model, injected) == clean


def test_a_student_that_keeps_too_little_refuses(tmp_path: Path) -> None:
    worse = lambda _, rows: [  # noqa: E731
        replace(row, token_f1=0.5) if row.system == "student" else row for row in rows
    ]
    assert failed(judged(tmp_path, "student", worse)) == {"retention"}
    assert failed(judged(tmp_path, "adapter", worse)) == set()


def offer_twin(metrics: dict[str, Any], rows: list[Prediction]) -> list[Prediction]:
    metrics["offered"] |= {"system": "twin", "text": "it did not beat", "gain": {"value": -0.01}}
    return [replace(row, token_f1=0.1) if row.system == "student" else row for row in rows]


def test_a_twin_that_is_offered_is_judged_in_the_students_place_and_told(tmp_path: Path) -> None:
    decision = judged(tmp_path, "student", offer_twin)
    assert decision.verdict == "promote"  # on the twin's scores: the student's would not do
    assert failed(decision) == {"distillation"}
    (reason,) = (item for item in decision.reasons if item.rule == "distillation")
    assert (reason.text, reason.value, reason.warns) == ("it did not beat", -0.01, True)


def test_a_student_that_keeps_less_than_was_asked_of_the_choice_is_told(tmp_path: Path) -> None:
    def less(metrics: dict[str, Any], rows: list[Prediction]) -> None:
        metrics["offered"]["keeps_enough"] = False

    decision = judged(tmp_path, "student", less)
    assert decision.verdict == "promote"
    assert failed(decision) == {"size"}


def test_a_twin_that_keeps_too_little_refuses(tmp_path: Path) -> None:
    def worse(metrics: dict[str, Any], rows: list[Prediction]) -> list[Prediction]:
        offered = offer_twin(metrics, rows)
        return [replace(r, token_f1=0.5) if r.system == "twin" else r for r in offered]

    assert failed(judged(tmp_path, "student", worse)) == {"retention", "distillation"}


def test_without_an_offer_nothing_is_decided(tmp_path: Path) -> None:
    def lost(metrics: dict[str, Any], rows: list[Prediction]) -> None:
        del metrics["offered"]

    with pytest.raises(DataError, match="expected student or twin"):
        judged(tmp_path, change=lost)


def test_without_documents_closed_book_decides_and_the_verdict_says_so(tmp_path: Path) -> None:
    decision = judged(tmp_path, modes=("closed_book",))
    assert decision.verdict == "promote"
    assert "retrieval rules are off" in decision.reasons[0].text
    assert "closed_book" in decision.reasons[5].text


@pytest.mark.parametrize("way", sorted(NO_LEAKS))
def test_a_leak_of_any_way_refuses_and_is_shown(tmp_path: Path, way: str) -> None:
    decision = judged(tmp_path, leaks=NO_LEAKS | {way: 2})
    assert failed(decision) == {"no_leak"}
    (reason,) = (item for item in decision.reasons if item.rule == "no_leak")
    assert (reason.value, reason.bound) == (2.0, 0.0)
    assert f"{way} 2" in reason.text
    assert "t1 in r9" in reason.text


@pytest.mark.parametrize("leaks", [{}, {"questions": 0}, NO_LEAKS | {"few_shot": None}])
def test_a_leak_check_that_was_not_made_refuses(tmp_path: Path, leaks: dict[str, Any]) -> None:
    assert failed(judged(tmp_path, leaks=leaks or {"none": 0})) == {"no_leak"}


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet", "curation/metrics.json"])
def test_nothing_is_decided_without_evidence(tmp_path: Path, name: str) -> None:
    judged(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=Path(name).name):
        decide(PARAMS, tmp_path, tmp_path / "curation", model="adapter", reigning=None)


def test_a_worker_that_decides_imports_nothing_heavy() -> None:
    code = (
        "import sys, tasks.promotion.decision;"
        "print({'torch', 'pandas', 'evaluate', 'transformers', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
