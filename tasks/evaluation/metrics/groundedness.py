"""How much of answers their passages support, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.scoring.answer_scores import Metrics
from tasks.scoring.grounding import ShownPassages, ground, grounding_means


class Groundedness(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `groundedness` (a share) and `unsupported` (numbers and names), means or null.

    `passages` are texts as the prompt showed them. Asked with `markers=[...]`, how an answer that
    abstains begins.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": text, "questions": text, "passages": datasets.Sequence(text)}
            ),
        )

    def _compute(
        self,
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
