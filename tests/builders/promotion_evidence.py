"""A night's evidence that passes every rule, to be spoilt one thing at a time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.promotion.decision import Decision, decide
from tasks.promotion.evidence import ChampionFiles, EarlierFiles, EvidenceFiles, UseFiles
from tasks.promotion.params import Params, PromotionParams
from tasks.promotion.results import Reason
from tasks.records.predictions import (
    DISTRACTOR,
    MODES,
    ROLES,
    SCORE_NAMES,
    Likelihood,
    Prediction,
    write_likelihoods,
    write_predictions,
)
from tasks.records.schema import ServedModel
from tasks.scoring.record_hashes import write_hashes
from tasks.scoring.record_use import RecordUse
from tasks.stage.params import load_params
from tests.builders.evaluation_report import answered

SYSTEMS = ("base", "adapter", *ROLES)
PARAMS: PromotionParams = load_params(Params, [Path("params/promotion.yaml")]).promotion.model_copy(
    update={"resamples": 2000}
)
RECORDS = 40
SCORES = {"base": 0.2, "adapter": 0.8, "student": 0.75, "control": 0.65}
LIKELIHOODS = {"adapter": -1.0, "student": -1.2}
SPLIT = {"scored_sha256": "s" * 64, "scoring_sha256": "c" * 64}
MEASURED = {"likelihood_sha256": "l" * 64}
BUNDLE = "b" * 64
USE = RecordUse(counts={2: RECORDS}, uncounted=0)
PAIRS = (
    "adapter-base", "student-base", "student-adapter", "student-control", "control-base",
    "control-adapter",
)  # fmt: skip
RETRIEVAL = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")


@dataclass
class Scored:
    """What was found of systems, in memory: an evaluation's report and a packaging's."""

    metrics: dict[str, Any]
    rows: list[Prediction]
    packaging: dict[str, Any]
    likelihoods: list[Likelihood]

    def write(self, folder: Path) -> None:
        """Write both reports' files."""
        evaluation, packaging = folder / "evaluation", folder / "packaging"
        for report, metrics in ((evaluation, self.metrics), (packaging, self.packaging)):
            report.mkdir(parents=True, exist_ok=True)
            (report / "metrics.json").write_text(json.dumps(metrics))
        write_predictions(evaluation / "predictions.parquet", self.rows)
        write_likelihoods(packaging / "likelihoods.parquet", self.likelihoods)


@dataclass
class Night:
    """All that a decision reads, in memory."""

    tonight: Scored
    champion: Scored | None
    validation: dict[str, Any]
    curation: dict[str, Any]
    parity: dict[str, Any]
    speed: dict[str, Any] | None
    earlier: dict[str, Scored] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    use: RecordUse = USE
    shadow: dict[str, Any] = field(default_factory=lambda: shadow())

    def write(self, folder: Path, model: ServedModel) -> EvidenceFiles:
        """Write its files, and say where they lie."""
        self.tonight.write(folder)
        for name in ("validation", "curation"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "metrics.json").write_text(json.dumps(getattr(self, name)))
        (folder / "parity.json").write_text(json.dumps(self.parity))
        if self.speed is not None:
            (folder / "speed.json").write_text(json.dumps(self.speed))
        (folder / "shadow.json").write_text(json.dumps(self.shadow))
        if self.champion is not None:
            self.champion.write(folder / "reigning")
        for name, scored in self.earlier.items():
            scored.write(folder / name)
        uses = UseFiles(folder / "test_records.npy", folder / "record_use.json")
        write_hashes(uses.records, np.arange(RECORDS, dtype=np.uint64))
        self.use.write(uses.counts)
        return EvidenceFiles(
            validation=folder / "validation",
            curation=folder / "curation",
            evaluation=folder / "evaluation",
            packaging=folder / "packaging",
            parity=folder / "parity.json",
            bundle_sha256=BUNDLE,
            champion=None
            if self.champion is None
            else champion_files("production:3", folder / "reigning", model),
            earlier=EarlierFiles(
                tuple(champion_files(name, folder / name, model) for name in self.earlier),
                self.unscored,
            ),
            speed=folder / "speed.json",
            uses=uses,
            shadow=folder / "shadow.json",
        )


def champion_files(name: str, folder: Path, model: ServedModel) -> ChampionFiles:
    """A version's files, as `Scored` writes them."""
    return ChampionFiles(name, folder / "evaluation", model, folder / "packaging", model)


Change = Callable[[Night], None]


def score(system: str, number: int) -> float:
    """Systems differ by another amount on every record, as scores do."""
    return SCORES[system] + 0.01 * (number * (1 + SYSTEMS.index(system)) % 5)


def prediction(system: str, mode: str, number: int, slices: int) -> Prediction:
    shown = mode != "closed_book"
    return answered(
        score(system, number),
        system=system,
        mode=mode,
        record=f"r{number:02}",
        slice="abcdefghij"[number % slices],
        question=f"q{number}",
        reference=f"a{number}",
        groundedness=0.9 + 0.01 * (number % 7) if shown and number % 5 else None,
    )


def likelihood(system: str, number: int, slices: int) -> Likelihood:
    tokens = 4 + number % 3
    each = LIKELIHOODS[system] + 0.01 * (number % 5)
    label = "abcdefghij"[number % slices]
    return Likelihood(system, f"r{number:02}", label, tokens * each, tokens)


def share(value: float, records: int = 20) -> dict[str, Any]:
    return {"value": value, "low": value / 2, "high": (1 + value) / 2, "records": records}


def metrics(modes: tuple[str, ...]) -> dict[str, Any]:
    """What evaluation found, its numbers those of a good night."""
    scores: dict[str, Any] = dict.fromkeys((*SCORE_NAMES, "abstention_recall"), 0.5)
    scores |= {"abstention_precision": None, "abstention_precision_reason": "no answer abstained"}
    scores |= {"length_ratio": 1.0, "broken_outputs": 0.0, "cut_outputs": 0.0, "unsupported": 0.1}
    for name in ("groundedness", "attribution", "citation"):
        scores |= {name: None, f"{name}_reason": "none was shown"}
    abstaining = {mode: {"unanswerable": share(0.9), "answerable": share(0.02)} for mode in modes}
    abstaining[DISTRACTOR] = {"unanswerable": share(0.8)}
    compared = {"difference": 0.1, "low": 0.05, "high": 0.15, "p_value_holm": 0.01}
    compared |= {"smallest_detectable": 0.05}
    megabytes = {"base": 500.0, "adapter": 500.0, "student": 400.0, "control": 400.0}
    retrieval: dict[str, Any] = dict.fromkeys(RETRIEVAL, 0.95) | {"records": 40}
    retrieval |= {"records_without_gold_document": 0}
    if modes == ("closed_book",):
        retrieval = {name: None for name in RETRIEVAL}
        retrieval |= {"records": 0, "records_without_gold_document": 0}
        retrieval |= {f"{name}_reason": "the data set has no documents" for name in RETRIEVAL}
    return {
        "systems": {system: {mode: dict(scores) for mode in modes} for system in SYSTEMS},
        "perplexity": {system: {"perplexity": 20.0} for system in SYSTEMS},
        "comparisons": {pair: dict(compared) for pair in PAIRS},
        "offered": {
            "name": "24",
            "system": "student",
            "text": "it paid",
            "keeps_enough": True,
            "keeps_at_least": 0.9,
            "offered_retention": {"value": 0.94},
        },
        "retrieval": retrieval,
        "abstention_shares": {system: json.loads(json.dumps(abstaining)) for system in SYSTEMS},
        "forgetting": {
            "perplexity_ratio": 1.06,
            "instructions_kept": 0.88,  # 22 of them
            "base": {"instructions_right": 25},
        },
        "sizes": {system: {"megabytes": megabytes[system]} for system in SYSTEMS},
        "test_split": dict(SPLIT),
    }


def speed(rounds: int = 7) -> dict[str, Any]:
    """What a release measured: adapter as fast as the base, student faster, in so many rounds."""
    turn = {"seconds": 1.0, "first_token_seconds": 0.4, "cpu_seconds": 2.0}
    same = {"value": 1.0, "low": 0.9, "high": 1.1}
    faster = {"value": 0.6, "low": 0.5, "high": 0.7}
    systems = ("base", "adapter", "student")
    return {
        "bundle_sha256": BUNDLE,
        "device": "cpu",
        "machine": "x86_64",
        "cores": 2,
        "threads": 2,
        "load_average": 0.4,
        "new_tokens": 8,
        "prompt_tokens": {system: [90, 118, 124] for system in systems},
        "confidence": 0.95,
        "rounds": [{system: dict(turn) for system in systems} for _ in range(rounds)],
        "over_base": {
            "adapter": {"seconds": dict(same), "cpu_seconds": dict(same)},
            "student": {"seconds": dict(faster), "cpu_seconds": dict(faster)},
        },
    }


def shadow() -> dict[str, Any]:
    """What both models answered to 200 served questions: nearly what the champion does."""
    side = {"abstained": 10, "groundedness": 0.95}
    one = {
        "champion": "production:3",
        "questions": 200,
        "differing": 30,
        "candidate_side": side,
        "champion_side": side,
    }
    models = {name: json.loads(json.dumps(one)) for name in ("adapter", "student")}
    return {"bundle_sha256": BUNDLE, "days": 7, "models": models}


def good_night(
    modes: tuple[str, ...] = MODES,
    model: ServedModel = "adapter",
    *,
    records: int = RECORDS,
    slices: int = 2,
) -> Night:
    """A night with nothing against it, and a champion that is as good."""
    numbers = range(records)
    tonight = Scored(
        metrics(modes),
        [prediction(s, m, n, slices) for s in SYSTEMS for m in modes for n in numbers],
        {
            "parity": {"adapter": 1.0, "student": 1.0},
            "parity_scores": {name: {"difference": 0.0} for name in ("adapter", "student")},
            **MEASURED,
        },
        [likelihood(s, n, slices) for s in LIKELIHOODS for n in numbers],
    )
    champion = Scored(
        {"test_split": dict(SPLIT)},
        [
            replace(row, token_f1=row.token_f1 + 0.01 * (place % 3 - 1))
            for place, row in enumerate(tonight.rows)
            if row.system == model
        ],
        dict(MEASURED),
        [
            replace(row, log_likelihood=row.log_likelihood + 0.02 * (place % 3 - 1))
            for place, row in enumerate(tonight.likelihoods)
            if row.system == model
        ],
    )
    rows = {"accepted": 3000, "quarantine_share": 0.01}
    return Night(
        tonight,
        champion,
        {"records": dict(rows), "documents": dict(rows), "set": {"rows": 1.0}, "warnings": {}},
        {"leaks": dict.fromkeys(("questions", "few_shot", "documents", "groups"), 0)},
        {
            "models": {
                name: {"asked": 8, "agreeing": 8, "share": 1.0, "mean_score_difference": 0.0}
                for name in ("adapter", "student")
            },
            "versions": {"adapter": 4, "student": 4},
            "bundle_sha256": BUNDLE,
        },
        speed(),
    )


def with_earlier(
    scores: float = 0.0, likelihoods: float = 0.0, *, name: str = "version 2"
) -> Change:
    """An earlier champion, better than the one of now by so much on each record."""

    def apply(night: Night) -> None:
        assert night.champion is not None
        night.earlier[name] = Scored(
            json.loads(json.dumps(night.champion.metrics)),
            [replace(row, token_f1=row.token_f1 + scores) for row in night.champion.rows],
            dict(night.champion.packaging),
            [
                replace(row, log_likelihood=row.log_likelihood + likelihoods * row.tokens)
                for row in night.champion.likelihoods
            ],
        )

    return apply


def with_rule(rule: str, **values: Any) -> PromotionParams:
    """The repository's params with one rule's block changed."""
    block = getattr(PARAMS.rules, rule).model_copy(update=values)
    return PARAMS.model_copy(update={"rules": PARAMS.rules.model_copy(update={rule: block})})


def decided(
    folder: Path,
    change: Change | None = None,
    *,
    model: ServedModel = "adapter",
    modes: tuple[str, ...] = MODES,
    params: PromotionParams = PARAMS,
) -> Decision:
    """The decision on a good night that was changed."""
    night = good_night(modes, model)
    if change is not None:
        change(night)
    return decide(params, night.write(folder, model), model=model)


def outcomes(decision: Decision, outcome: str) -> set[str]:
    """The rules with an outcome, without their slices."""
    refused = {item.rule for item in decision.reasons if item.outcome == "refused"}
    assert (decision.verdict == "refuse") == bool(refused)
    found = [item.rule for item in decision.reasons if item.outcome == outcome]
    return {name.partition("/")[0] for name in found}


def told(decision: Decision) -> tuple[Reason, ...]:
    """What a decision tells, in the order in which people read it."""
    return (*decision.refused, *decision.warned, *decision.passed)
