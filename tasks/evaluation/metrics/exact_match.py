"""The mean `exact_match` of answers against their references, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.scoring.answer_scores import mean_score


class ExactMatch(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `{"exact_match": mean}`, in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[str]
    ) -> dict[str, float]:
        return {"exact_match": mean_score("exact_match", predictions, references)}
