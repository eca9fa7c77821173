"""The tokens of answers over those of their references, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.scoring.answer_scores import Metrics, length_metrics


class LengthRatio(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `{"length_ratio": sum over sum}`, from 0."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, *, predictions: Sequence[str], references: Sequence[str]) -> Metrics:
        return length_metrics(predictions, references)
