"""How well documents are ranked, for `evaluate.load`."""

from collections.abc import Sequence

import datasets
import evaluate

from tasks.evaluation.retrieval_metrics import rank_metrics
from tasks.scoring.answer_scores import Metrics


class Retrieval(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Computes `recall_at_1`, `_5`, `_10`, `mrr` and `ndcg_at_10`, means in [0, 1] or null.

    `predictions` are the ids of the documents that the passages found are of, best first;
    `references` the ids of the gold documents; `gold_passages` how many passages of them there are
    to find. A row with none of them is counted apart.
    """

    def _info(self) -> evaluate.MetricInfo:
        names = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            features=datasets.Features(
                {
                    "predictions": names,
                    "references": names,
                    "gold_passages": datasets.Value("int64"),
                }
            ),
        )

    def _compute(
        self,
        *,
        predictions: Sequence[Sequence[str]],
        references: Sequence[Sequence[str]],
        gold_passages: Sequence[int],
    ) -> Metrics:
        return rank_metrics(predictions, references, gold_passages)
