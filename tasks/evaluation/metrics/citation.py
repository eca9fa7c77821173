"""Whether answers rest on passages of the right document, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.scoring.answer_scores import Metrics
from tasks.scoring.grounding import ShownPassages, ground, grounding_means


class Citation(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `citation` (of [n] markers) and `attribution` (by support), means or null.

    `documents` are the ids of the documents that the `passages` are of, place by place, and
    `references` those that hold the answer. Asked with `markers=[...]`, how an answer that abstains
    begins.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        texts = datasets.Sequence(text)
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features(
                {"predictions": text, "references": texts, "passages": texts, "documents": texts}
            ),
        )

    def _compute(
        self,
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
                output,
                ShownPassages("", tuple(texts), tuple(name in gold for name in names)),
                markers,
            )
            for output, gold, texts, names in asked
            if texts
        ]
        return grounding_means(found, ("attribution", "citation"))
