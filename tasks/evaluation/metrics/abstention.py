"""Precision and recall of answers that say they do not know, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.scoring.answer_scores import Metrics, abstains, abstention_scores


class Abstention(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `abstention_precision` and `abstention_recall`, in [0, 1] or null.

    Asked with `markers=[...]`, how an answer that abstains begins; a reference that begins so is
    one where abstaining is right.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[str], markers: Sequence[str]
    ) -> Metrics:
        return abstention_scores(
            [abstains(text, markers) for text in predictions],
            [abstains(text, markers) for text in references],
        )
