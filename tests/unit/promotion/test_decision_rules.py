"""Every rule of promotion refuses on its own ground, warns where it is told to, and can be off."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.decision import RULES
from tasks.records.predictions import DISTRACTOR, Prediction
from tasks.records.schema import ServedModel
from tasks.scoring.record_use import RecordUse
from tasks.task_types.classify import CLASSIFY
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.tools import TOOLS
from tests.builders.promotion_evidence import (
    BUNDLE,
    RETRIEVAL,
    Change,
    Night,
    decided,
    outcomes,
    told,
    with_earlier,
    with_rule,
)

WORN = RecordUse(counts={1: 39, 201: 1}, uncounted=2)
Row = Callable[[Prediction], Prediction]


def rows(change: Row, *systems: str) -> Change:
    """Change tonight's answers of some systems."""

    def apply(night: Night) -> None:
        night.tonight.rows = [
            change(row) if row.system in systems else row for row in night.tonight.rows
        ]

    return apply


def put(place: str, value: Any) -> Change:
    """Set one number, by the name of its part of the night and its path in there."""

    def apply(night: Night) -> None:
        part, *names, last = place.split("/")
        found = getattr(night.tonight if part in ("metrics", "packaging") else night, part)
        for name in names:
            found = found[name]
        if value is ...:
            del found[last]
        else:
            found[last] = value

    return apply


def even(row: Prediction) -> bool:
    return int(row.record[1:]) % 2 == 0


def champion_scores(more: float) -> Change:
    def apply(night: Night) -> None:
        assert night.champion is not None
        night.champion.rows = [
            replace(row, token_f1=row.token_f1 + more) for row in night.champion.rows
        ]

    return apply


def champion_likelihoods(more: float) -> Change:
    def apply(night: Night) -> None:
        assert night.champion is not None
        night.champion.likelihoods = [
            replace(row, log_likelihood=row.log_likelihood + more * row.tokens)
            for row in night.champion.likelihoods
        ]

    return apply


def weak_gain(night: Night) -> None:
    """Half of the answers to the base's liking, the other half not, and few enough to wonder."""
    rows(lambda row: replace(row, token_f1=0.81 if even(row) else 0.80), "adapter")(night)
    rows(lambda row: replace(row, token_f1=0.62 if even(row) else 0.99), "base")(night)


def scattered_gain(night: Night) -> None:
    """A gain that shows, on records that could not have shown one of 0.25."""
    night.champion = None

    def lost(row: Prediction) -> bool:
        return int(row.record[1:]) % 10 < 3

    rows(lambda row: replace(row, token_f1=0.0 if lost(row) else 1.0), "adapter")(night)
    rows(lambda row: replace(row, token_f1=0.5 if lost(row) else 0.0), "base")(night)


def weak_student(night: Night) -> None:
    night.champion = None
    rows(lambda row: replace(row, token_f1=0.6 + row.token_f1 / 20), "student")(night)
    rows(lambda row: replace(row, token_f1=0.5 + row.token_f1 / 20), "control")(night)


def all_documents_gone(night: Night) -> None:
    found = night.tonight.metrics["retrieval"]
    for name in RETRIEVAL:
        found |= {name: None, f"{name}_reason": "the documents are all gone from the index"}
    found |= {"records": 0, "records_without_gold_document": 40}


# What spoils a good night for each rule, and for whom.
SLOW = {"value": 2.0, "low": 1.6, "high": 3.0}
SPOILS: dict[str, list[tuple[ServedModel, Change]]] = {
    "data_accepted": [
        ("adapter", put("validation/records/quarantine_share", 0.051)),
        ("student", put("validation/documents/quarantine_share", 0.2)),
        ("adapter", put("validation/records/accepted", 0)),
        ("adapter", put("validation/records/quarantine_share", ...)),
        ("adapter", put("validation/records/quarantine_share", float("nan"))),
        ("adapter", put("validation/set", {})),
    ],
    "no_leak": [
        *(("adapter", put(f"curation/leaks/{way}", 1)) for way in ("questions", "few_shot")),
        *(("student", put(f"curation/leaks/{way}", 1)) for way in ("documents", "groups")),
        ("adapter", put("curation/leaks", {})),
        ("adapter", put("curation/leaks/groups", ...)),
        ("adapter", put("curation/leaks/few_shot", None)),
    ],
    "evidence": [
        ("adapter", put("metrics/systems/base/oracle/chrf", ...)),
        ("adapter", put("metrics/systems/student/closed_book/rouge_l", float("nan"))),
        ("adapter", put("metrics/systems/adapter/retrieved/token_f1", None)),
        ("adapter", put("metrics/systems/adapter/retrieved/abstention_precision_reason", ...)),
        ("adapter", put("metrics/systems/student", ...)),
        ("adapter", put("metrics/systems/adapter/oracle", ...)),
        ("adapter", put("metrics/retrieval/ndcg_at_10", ...)),
        ("adapter", put("metrics/systems/base/retrieved/length_ratio", None)),
        ("adapter", put("metrics/systems/adapter/oracle/exact_match", True)),
        ("student", put("metrics/machine", {"load": float("inf")})),
        ("adapter", put("metrics/systems/adapter/retrieved/citation", ...)),
        ("adapter", put("metrics/systems/student/oracle/broken_outputs", ...)),
        ("adapter", put("metrics/perplexity/base", ...)),
        ("adapter", put("metrics/comparisons/student-adapter", ...)),
        ("student", put("metrics/comparisons/adapter-base/low", None)),
    ],
    "same_records": [
        ("adapter", rows(lambda row: replace(row, question="?"), "student")),
        ("adapter", rows(lambda row: replace(row, record=f"{row.record[:-1]}0"), "student")),
    ],
    "power": [("adapter", scattered_gain)],
    "worn_records": [
        ("adapter", lambda night: setattr(night, "use", WORN)),
        ("student", lambda night: setattr(night, "use", WORN)),
    ],
    "stops": [
        ("adapter", rows(lambda row: replace(row, is_cut=int(row.record[1:]) > 15), "adapter"))
    ],
    "readable": [
        ("adapter", rows(lambda row: replace(row, output="\ufffd" if even(row) else ""), "adapter"))
    ],
    "beats_base": [("adapter", weak_gain)],
    "not_worse": [("adapter", champion_scores(0.13)), ("student", champion_scores(0.13))],
    "not_less_likely": [
        ("adapter", champion_likelihoods(0.13)),
        ("student", champion_likelihoods(0.2)),
        ("adapter", champion_likelihoods(float("nan"))),
    ],
    "not_worse_than_best": [
        ("adapter", with_earlier(scores=0.2)),
        ("student", with_earlier(scores=0.2)),
    ],
    "not_less_likely_than_best": [
        ("adapter", with_earlier(scores=0.01, likelihoods=0.2)),
        ("student", with_earlier(scores=0.01, likelihoods=0.2)),
        ("adapter", with_earlier(scores=0.01, likelihoods=float("nan"))),
    ],
    "retrieval_recall": [
        ("adapter", put("metrics/retrieval/recall_at_5", 0.79)),
        ("adapter", put("metrics/retrieval/records", ...)),
        ("adapter", put("metrics/retrieval/records_without_gold_document", 3)),
        ("student", put("metrics/retrieval/records_without_gold_document", ...)),
        ("adapter", all_documents_gone),
    ],
    "groundedness": [
        ("adapter", rows(lambda row: replace(row, groundedness=0.4), "adapter")),
        ("student", rows(lambda row: replace(row, groundedness=None), "student")),
    ],
    "abstention": [
        ("adapter", put("metrics/abstention_shares/adapter/retrieved/unanswerable/value", 0.1)),
        ("adapter", put(f"metrics/abstention_shares/adapter/{DISTRACTOR}/unanswerable/value", 0.1)),
        ("student", put("metrics/abstention_shares/student/retrieved/answerable/value", 0.5)),
    ],
    "shadow": [
        ("adapter", put("shadow/models/adapter/differing", 101)),
        ("student", put("shadow/models/student/candidate_side/abstained", 31)),
        ("adapter", put("shadow/models/adapter/candidate_side/groundedness", 0.8)),
    ],
    "forgetting": [
        ("adapter", put("metrics/forgetting/perplexity_ratio", 1.6)),
        ("adapter", put("metrics/forgetting/perplexity_ratio", ...)),
    ],
    "instructions": [
        ("adapter", put("metrics/forgetting/instructions_kept", 0.48)),
        ("adapter", put("metrics/forgetting/instructions_kept", ...)),
    ],
    "retention": [("student", weak_student)],
    "student_keeps": [("student", put("metrics/offered/keeps_enough", False))],
    "gain_over_control": [("student", rows(lambda row: replace(row, token_f1=0.8), "control"))],
    "latency": [
        ("adapter", put("speed/over_base/adapter/seconds", SLOW)),
        ("student", put("speed/over_base/student/cpu_seconds", SLOW)),
    ],
    "size": [
        ("adapter", put("metrics/sizes/adapter/megabytes", 1000.0)),
        ("student", put("metrics/sizes/student/megabytes", 500.0)),
        ("student", put("metrics/sizes/adapter/megabytes", ...)),
    ],
    "parity": [
        ("adapter", put("packaging/parity/adapter", 0.75)),
        ("adapter", put("packaging/parity/adapter", ...)),
        ("student", put("packaging/parity_scores/student/difference", 0.06)),
        ("adapter", put("packaging/parity_scores/adapter", ...)),
        ("student", put("parity/models/student/agreeing", 6)),
        ("student", put("parity/models/student/asked", 0)),
        ("adapter", put("parity/models/adapter", ...)),
        ("adapter", put("parity/models/adapter/mean_score_difference", -0.06)),
        ("adapter", put("parity/bundle_sha256", f"c{BUNDLE[1:]}")),
    ],
}  # fmt: skip
EACH = [
    pytest.param(rule, model, change, id=f"{rule}-{place}")
    for rule, spoils in SPOILS.items()
    for place, (model, change) in enumerate(spoils)
]


def test_every_rule_is_seen_to_speak() -> None:
    # See test_label_rules.py, test_summary_rules.py and test_call_rules.py for the others.
    others = CLASSIFY.rules | SUMMARIZE.rules | TOOLS.rules
    mine = [rule for rule in RULES if rule.name not in others]
    assert list(SPOILS) == [rule.name for rule in mine]
    for rule in mine:
        assert {model for model, _ in SPOILS[rule.name]} <= set(rule.models)


@pytest.mark.parametrize(("rule", "model", "change"), EACH)
def test_a_rule_refuses_on_its_own_ground_alone(
    tmp_path: Path, rule: str, model: ServedModel, change: Change
) -> None:
    decision = decided(tmp_path, change, model=model, params=with_rule(rule, severity="refuse"))
    assert outcomes(decision, "refused") == {rule}
    [first, *_] = decision.refused
    assert first.rule.partition("/")[0] == rule
    assert len(first.text) > 20


@pytest.mark.parametrize(("rule", "model", "change"), EACH)
def test_a_rule_that_warns_tells_it_and_refuses_nothing(
    tmp_path: Path, rule: str, model: ServedModel, change: Change
) -> None:
    decision = decided(tmp_path, change, model=model, params=with_rule(rule, severity="warn"))
    assert decision.verdict == "promote"
    assert outcomes(decision, "warned") == {rule}
    assert told(decision)[0].outcome == "warned"


@pytest.mark.parametrize("rule", list(SPOILS))
def test_a_rule_that_is_off_asks_nothing_and_says_so(tmp_path: Path, rule: str) -> None:
    model, change = SPOILS[rule][0]
    decision = decided(tmp_path, change, model=model, params=with_rule(rule, enabled=False))
    assert decision.verdict == "promote"
    [reason] = [item for item in decision.reasons if item.rule == rule]
    assert (reason.outcome, reason.value) == ("off", None)
    assert f"{rule} is off" in reason.text
    assert reason in told(decision)
