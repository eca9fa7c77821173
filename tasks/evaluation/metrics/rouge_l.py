"""The mean `rouge_l` of answers against their references, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.scoring.answer_scores import mean_score


class RougeL(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `{"rouge_l": mean}`, in [0, 1]."""

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
        return {"rouge_l": mean_score("rouge_l", predictions, references)}
