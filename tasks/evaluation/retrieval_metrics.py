"""How well retrieval ranks: recall, reciprocal rank and discounted gain over gold documents."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tasks.records.schema import Record
from tasks.retrieval.fusion import DEEPEST, first_gold_rank
from tasks.retrieval.index import IndexSettings, ScoredPassage
from tasks.scoring.answer_scores import Metrics, null

DEPTHS = (1, 5, DEEPEST)
RETRIEVAL_METRICS = (*(f"recall_at_{depth}" for depth in DEPTHS), "mrr", f"ndcg_at_{DEEPEST}")


@dataclass(frozen=True)
class Ranking:
    """What was found for one record: at each rank, whether the passage is of a gold document.

    `gold_passages` is how many passages of its gold documents the index holds, at least 1.
    """

    is_gold: tuple[bool, ...]
    gold_passages: int


def ranking_metrics(rankings: Sequence[Ranking]) -> dict[str, float]:
    """Return means over rankings, of which there is at least one.

    `recall_at_k`: whether any of the first k passages is of a gold document. `mrr`: one over the
    rank of the first that is, 0 where none of the first 10 is. `ndcg_at_10`: every passage of a
    gold document has gain 1 and all others 0, a gain at rank r counts 1 / log2(r + 1), and the sum
    is divided by that of the best order, which begins with min(10, `gold_passages`) gains
    (Järvelin and Kekäläinen 2002, Cumulated gain-based evaluation of IR techniques, section 2).
    """
    count = len(rankings)
    ranks = [first_gold_rank(ranking.is_gold) for ranking in rankings]
    found = {f"recall_at_{k}": sum(rank <= k for rank in ranks) / count for k in DEPTHS}
    found["mrr"] = sum(1 / rank for rank in ranks) / count
    found[f"ndcg_at_{DEEPEST}"] = sum(map(_discounted_gain, rankings)) / count
    return found


def _discounted_gain(ranking: Ranking) -> float:
    gains = [1 / math.log2(rank + 1) for rank in range(1, DEEPEST + 1)]
    reached = sum(gain for gain, gold in zip(gains, ranking.is_gold, strict=False) if gold)
    return reached / sum(gains[: ranking.gold_passages])


def retrieval(
    records: Sequence[Record],
    found: Sequence[Sequence[ScoredPassage]],
    indexed: Mapping[str, int],
) -> Metrics:
    """Return the metrics over records with a gold document in the index, and how many those are.

    `indexed` is the number of passages by document in the index. A record all of whose documents
    are gone can be neither hit nor missed: `records_without_gold_document` counts it. Null with a
    reason where no record is left.
    """
    named = [(item, ranked) for item, ranked in zip(records, found, strict=True) if item.documents]
    metrics = rank_metrics(
        [[one.passage.document_id for one in ranked] for _, ranked in named],
        [item.documents for item, _ in named],
        [sum(indexed.get(name, 0) for name in item.documents) for item, _ in named],
    )
    if named and not indexed:
        for name in RETRIEVAL_METRICS:
            metrics |= null(name, "the data set has no documents")
    return metrics


def index_weights(settings: IndexSettings) -> Metrics:
    """Return how much each half of an index counts, and by what on validation questions it does.

    Empty where nothing can be searched.
    """
    if not settings.passages:
        return {}
    measured = settings.weights_measured
    found: Metrics = {
        "lexical_weight": settings.lexical_weight,
        "dense_weight": settings.dense_weight,
    }
    return found if measured is None else found | dict(measured.numbers())


def rank_metrics(
    ranked: Sequence[Sequence[str]],
    gold: Sequence[Collection[str]],
    gold_passages: Sequence[int],
) -> Metrics:
    """Return the metrics from the documents of the passages found, best first, and the gold
    documents.

    `gold_passages` are those that there are to find, by record; a record with none is counted under
    `records_without_gold_document` and no more.
    """
    rankings = [
        Ranking(tuple(name in names for name in documents), held)
        for documents, names, held in zip(ranked, gold, gold_passages, strict=True)
        if held > 0
    ]
    metrics: Metrics = {
        "records": len(rankings),
        "records_without_gold_document": len(ranked) - len(rankings),
    }
    if rankings:
        return metrics | dict(ranking_metrics(rankings))
    reason = "no record names the documents that hold its answer"
    if ranked:
        reason = f"the documents that the {len(ranked)} records name are all gone from the index"
    for name in RETRIEVAL_METRICS:
        metrics |= null(name, reason)
    return metrics
