"""How much BM25 and dense search count, measured on validation questions.

The usual weights of params stay unless others are better by their interval, or one half alone
finds next to nothing and is not missed. So chance changes no search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from tasks.indexing.params import IndexingParams, WeightChoiceParams
from tasks.records.schema import Record
from tasks.records.text import hash_share
from tasks.retrieval.fusion import Halves, Weights, first_gold_rank
from tasks.retrieval.index import Index, WeightsMeasured
from tasks.statistics.bootstrap import Interval, bootstrap_mean, paired_bootstrap

Half = Literal["lexical", "dense"]
Reason = Literal["usual", "better", "noise", "too_few", "fixed"]
ALONE: Mapping[Half, Weights] = {"lexical": Weights(1, 0), "dense": Weights(0, 1)}
OTHER: Mapping[Half, Half] = {"lexical": "dense", "dense": "lexical"}
_SALT = "weights"
# A difference of nothing comes out of the draws as a rounding error of less than this.
_NOTHING = 1e-6


@dataclass(frozen=True)
class WeightChoice:
    """The weights that an index is searched with, why, and what was measured.

    `alone` and `fused` are mean reciprocal ranks of the halves and of the chosen weights; `gains`
    are those of the alternatives over the usual weights, paired by question and at a confidence
    that their number raises; `adds` is what each half adds to the other alone. All are empty or
    None where no question was measured.
    """

    weights: Weights
    usual: Weights
    reason: Reason
    questions: int
    fused: Interval | None
    alone: Mapping[Half, Interval]
    gains: Mapping[Weights, Interval]
    adds: Mapping[Half, Interval]

    def idle(self) -> list[Half]:
        """Return the halves that count, and add nothing that the questions show."""
        return [half for half, added in self.adds.items() if added.low <= _NOTHING]

    def off(self) -> list[Half]:
        """Return the halves that the choice, and not params, left out."""
        if self.reason not in ("better", "noise"):
            return []
        chosen, usual = asdict(self.weights), asdict(self.usual)
        return [half for half in ALONE if chosen[half] == 0 < usual[half]]

    def summary(self) -> WeightsMeasured:
        """Return it as the index keeps it."""
        means = {half: self.alone[half].value if self.alone else None for half in ALONE}
        fused = None if self.fused is None else self.fused.value
        return WeightsMeasured(questions=self.questions, reason=self.reason, fused=fused, **means)

    def numbers(self) -> dict[str, Any]:
        """Return it as `metrics.json` holds it."""
        found: dict[str, Any] = {
            **asdict(self.weights),
            "reason": self.reason,
            "questions": self.questions,
        }
        if self.fused is None:
            why = "no validation record names a document of the index"
            if not self.weights.dense:
                why = "params leave the dense half out, so nothing is embedded"
            return found | {"mrr": None, "mrr_reason": why}
        return found | {
            "mrr": {name: asdict(value) for name, value in self.alone.items()}
            | {"fused": asdict(self.fused)},
            "gains": {_key(weights): asdict(gain) for weights, gain in self.gains.items()},
            "adds": {half: asdict(added) for half, added in self.adds.items()},
        }


def _key(weights: Weights) -> str:
    return f"lexical_{weights.lexical:g}_dense_{weights.dense:g}"


def fixed_weights(params: IndexingParams) -> WeightChoice:
    """Return the weights of params, unmeasured."""
    usual = Weights(params.lexical_weight, params.dense_weight)
    return WeightChoice(usual, usual, "fixed", 0, None, {}, {}, {})


def asked_records(
    index: Index, validation: Sequence[Record], params: WeightChoiceParams
) -> list[Record]:
    """Return the validation records to measure with: they name a document of the index.

    At most so many as params say, those with the lowest hashed ids.
    """
    named = [one for one in validation if not index.documents.isdisjoint(one.documents)]
    named.sort(key=lambda one: (hash_share(one.id, _SALT), one.id))
    return named[: params.questions]


def choose_weights(
    index: Index, records: Sequence[Record], found: Sequence[Halves], params: IndexingParams
) -> WeightChoice:
    """Return the weights for an index, from what each half found for the records' questions.

    Of the alternatives that are better than the usual weights by their interval, the one with the
    highest mean is taken, of equal ones the first in params. Where there is none, a half is left
    out that alone finds next to nothing and is not missed. With fewer records than params ask for,
    the usual weights stay, whatever was found.
    """
    choice = params.choice
    usual = Weights(params.lexical_weight, params.dense_weight)
    if not records:
        reason: Reason = "too_few" if choice.measured else "fixed"
        return WeightChoice(usual, usual, reason, 0, None, {}, {}, {})
    ranks = partial(_reciprocal_ranks, index, records, found)
    alternatives = [Weights(*pair) for pair in choice.alternatives]
    drawn: dict[str, Any] = {"resamples": choice.resamples, "seed": choice.seed}
    # Of many alternatives one looks better by chance: each has its share of the doubt (Bonferroni).
    strict = 1 - (1 - choice.confidence) / max(len(alternatives), 1)
    before = ranks(usual)
    gains = {
        one: paired_bootstrap(ranks(one), before, confidence=strict, **drawn)
        for one in alternatives
    }

    def mean(values: list[float]) -> Interval:
        return bootstrap_mean(values, confidence=choice.confidence, **drawn)

    alone = {half: mean(ranks(weights)) for half, weights in ALONE.items()}
    weights, reason = usual, _unchosen(choice, len(records))
    if reason == "usual":
        weights, reason = _chosen(usual, gains, alone, ranks, choice)
    after = ranks(weights)
    adds: dict[Half, Interval] = {}
    if weights.lexical and weights.dense:
        adds = {
            half: paired_bootstrap(
                after, ranks(ALONE[other]), confidence=choice.confidence, **drawn
            )
            for half, other in OTHER.items()
        }
    return WeightChoice(weights, usual, reason, len(records), mean(after), alone, gains, adds)


def _unchosen(choice: WeightChoiceParams, records: int) -> Reason:
    if not choice.measured:
        return "fixed"
    return "too_few" if records < choice.least_questions else "usual"


def _chosen(
    usual: Weights,
    gains: Mapping[Weights, Interval],
    alone: Mapping[Half, Interval],
    ranks: Callable[[Weights], list[float]],
    choice: WeightChoiceParams,
) -> tuple[Weights, Reason]:
    better = [weights for weights, gain in gains.items() if gain.low > _NOTHING]
    if better:
        return max(better, key=lambda weights: gains[weights].value), "better"
    for half, other in OTHER.items():
        found_nothing = alone[half].high < choice.noise * alone[other].low
        if found_nothing and usual.lexical and usual.dense:
            missed = paired_bootstrap(
                ranks(usual),
                ranks(ALONE[other]),
                confidence=choice.confidence,
                resamples=choice.resamples,
                seed=choice.seed,
            )
            if missed.low <= _NOTHING:
                return ALONE[other], "noise"
    return usual, "usual"


def _reciprocal_ranks(
    index: Index, records: Sequence[Record], found: Sequence[Halves], weights: Weights
) -> list[float]:
    """Return for each record one over the rank of the first passage of a gold document, else 0."""
    constant = index.settings.rank_constant
    ranks = (
        first_gold_rank(
            index.passages[at].document_id in record.documents
            for at, _ in halves.fused(weights, constant)
        )
        for record, halves in zip(records, found, strict=True)
    )
    return [1 / rank for rank in ranks]
