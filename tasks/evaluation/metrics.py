"""All metrics for `evaluate.load(PATH, NAME)`, offline; NAME is one of METRICS.

What a metric cannot compute is null in its result, the reason beside it under `NAME_reason`. One
import a line, and absolute: the import parser of `evaluate` reads nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import evaluate

from tasks.evaluation.retrieval_metrics import rank_metrics
from tasks.scoring.answer_scores import (
    SCORES,
    Metrics,
    abstains,
    abstention_scores,
    length_metrics,
    mean_score,
)
from tasks.scoring.grounding import ShownPassages, ground, grounding_means
from tasks.stage.errors import ConfigError

_TEXT = datasets.Value("string")
_TEXTS = datasets.Sequence(_TEXT)
_PAIRS = {"predictions": _TEXT, "references": _TEXT}


@dataclass(frozen=True)
class _Definition:
    """What a metric is given, and what it makes of that."""

    description: str
    features: Mapping[str, Any]
    compute: Callable[..., Metrics]


def _mean(name: str, *, predictions: Sequence[str], references: Sequence[str]) -> Metrics:
    return {name: mean_score(name, predictions, references)}


def _length_ratio(*, predictions: Sequence[str], references: Sequence[str]) -> Metrics:
    return length_metrics(predictions, references)


def _abstention(
    *, predictions: Sequence[str], references: Sequence[str], markers: Sequence[str]
) -> Metrics:
    return abstention_scores(
        [abstains(text, markers) for text in predictions],
        [abstains(text, markers) for text in references],
    )


def _groundedness(
    *,
    predictions: Sequence[str],
    questions: Sequence[str],
    passages: Sequence[Sequence[str]],
    markers: Sequence[str],
) -> Metrics:
    asked = zip(predictions, questions, passages, strict=True)
    found = [
        ground(output, ShownPassages(question, tuple(texts), (False,) * len(texts)), markers)
        for output, question, texts in asked
        if texts
    ]
    return grounding_means(found, ("groundedness", "unsupported"))


def _citation(
    *,
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    passages: Sequence[Sequence[str]],
    documents: Sequence[Sequence[str]],
    markers: Sequence[str],
) -> Metrics:
    asked = zip(predictions, references, passages, documents, strict=True)
    found = [
        ground(
            output, ShownPassages("", tuple(texts), tuple(name in gold for name in names)), markers
        )
        for output, gold, texts, names in asked
        if texts
    ]
    return grounding_means(found, ("attribution", "citation"))


def _retrieval(
    *,
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    gold_passages: Sequence[int],
) -> Metrics:
    return rank_metrics(predictions, references, gold_passages)


METRICS: dict[str, _Definition] = {
    name: _Definition(f"The mean {name} of answers, in [0, 1].", _PAIRS, partial(_mean, name))
    for name in SCORES
} | {
    "length_ratio": _Definition(
        "The tokens of answers over those of their references, from 0.", _PAIRS, _length_ratio
    ),
    "abstention": _Definition(
        "Precision and recall of answers that begin with one of `markers`; a reference that begins "
        "so is one where abstaining is right.",
        _PAIRS,
        _abstention,
    ),
    "groundedness": _Definition(
        "How much of answers their passages support, texts as the prompt showed them, and how many "
        "numbers and names they do not; `markers` begin an answer that abstains.",
        {"predictions": _TEXT, "questions": _TEXT, "passages": _TEXTS},
        _groundedness,
    ),
    "citation": _Definition(
        "Whether answers rest on passages of the right document: `citation` of [n] markers, "
        "`attribution` by support. `documents` are those that the passages are of, place by place, "
        "and `references` those that hold the answer; `markers` begin an answer that abstains.",
        {"predictions": _TEXT, "references": _TEXTS, "passages": _TEXTS, "documents": _TEXTS},
        _citation,
    ),
    "retrieval": _Definition(
        "Recall at 1, 5 and 10, `mrr` and `ndcg_at_10`. `predictions` are the documents of the "
        "passages found, best first, `references` the gold documents, `gold_passages` how many "
        "passages of them there are to find; a row with none is counted apart.",
        {
            "predictions": _TEXTS,
            "references": _TEXTS,
            "gold_passages": datasets.Value("int64"),
        },
        _retrieval,
    ),
}


class NamedMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """The metric of METRICS that `config_name` names."""

    def _info(self) -> evaluate.MetricInfo:
        found = self._definition()
        return evaluate.MetricInfo(
            description=found.description,
            citation="",
            features=datasets.Features(found.features),
        )

    def _compute(self, **given: Any) -> Metrics:
        return self._definition().compute(**given)

    def _definition(self) -> _Definition:
        if self.config_name not in METRICS:
            raise ConfigError(
                f"there is no metric {self.config_name}; expected one of {', '.join(METRICS)}",
                "name it: evaluate.load(PATH, NAME)",
            )
        return METRICS[self.config_name]
