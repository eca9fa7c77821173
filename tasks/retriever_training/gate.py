"""Whether a trained embedder finds more than its base does: recall on validation, by its interval.

Dense search alone is measured, over all passages and without a reranker; what it is worth beside
BM25 is measured again where the halves are weighted, in indexing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage
from tasks.records.schema import Record
from tasks.records.text import hash_share
from tasks.retrieval.corrections import Corrections
from tasks.retrieval.dense import DenseIndex, Vectors
from tasks.retrieval.fusion import DEEPEST, first_gold_rank
from tasks.retriever_training.pairs import Pair
from tasks.retriever_training.params import GateParams
from tasks.statistics.bootstrap import Interval, bootstrap_mean, paired_bootstrap

Reason = Literal["off", "too_few", "found_all", "not_better", "better"]
_SALT = "weights"  # so that the questions are those by which indexing weighs the halves
# A difference of nothing comes out of the draws as a rounding error of less than this.
_NOTHING = 1e-6

# Texts to their unit vectors, (texts, dimension).
Encode = Callable[[Sequence[str]], Vectors]


@dataclass(frozen=True)
class Asked:
    """Questions, the documents that hold what each asks, and the passages that are searched."""

    questions: tuple[str, ...]
    documents: tuple[frozenset[str], ...]
    passages: tuple[Passage, ...]
    are_spans: bool = False

    def ranks(self, encode_questions: Encode, encode_passages: Encode) -> list[float]:
        """Return for each question the rank of the first passage of a right document, from 1.

        Infinite where none of the best `DEEPEST` is of one. A correction about something else than
        the question is no passage for it, as in search.
        """
        vectors = encode_passages([passage.shown for passage in self.passages])
        corrections = Corrections(self.passages)
        found = DenseIndex(vectors, None).search(
            encode_questions(self.questions), DEEPEST + len(corrections)
        )
        return [self._rank(row.tolist(), number, corrections) for number, row in enumerate(found)]

    def lexical_ranks(self, lexical: LexicalIndex) -> list[float]:
        """Return the same by BM25, over an index of the same passages."""
        corrections = Corrections(self.passages)
        places, scores = lexical.search(self.questions, DEEPEST + len(corrections))
        return [
            self._rank(row[values > 0].tolist(), number, corrections)
            for number, (row, values) in enumerate(zip(places, scores, strict=True))
        ]

    def _rank(self, places: Sequence[int], number: int, corrections: Corrections) -> float:
        other = corrections.of_other_subjects(self.questions[number])
        ranked = (self.passages[at].document_id for at in places if at not in other)
        return first_gold_rank(name in self.documents[number] for name in ranked)


def asked_questions(
    records: Sequence[Record], passages: Sequence[Passage], params: GateParams
) -> Asked:
    """Return the validation questions that name a document with passages, by hashed id."""
    known = {passage.document_id for passage in passages}
    named = [record for record in records if not known.isdisjoint(record.documents)]
    named.sort(key=lambda one: (hash_share(one.id, _SALT), one.id))
    named = named[: params.questions]
    return Asked(
        tuple(record.question for record in named),
        tuple(frozenset(record.documents) for record in named),
        tuple(passages),
    )


def asked_spans(pairs: Sequence[Pair], passages: Sequence[Passage], params: GateParams) -> Asked:
    """Return the sentences of pairs as questions, each missing from its passage as in its pair."""
    chosen = sorted(pairs, key=lambda one: (hash_share(one.id, _SALT), one.id))[: params.questions]
    without = {pair.passage.id: pair.passage for pair in chosen}
    return Asked(
        tuple(pair.question for pair in chosen),
        tuple(pair.documents for pair in chosen),
        tuple(without.get(passage.id, passage) for passage in passages),
        are_spans=True,
    )


@dataclass(frozen=True)
class Score:
    """Recall among the first passages, and the mean reciprocal rank."""

    recall: Interval
    mrr: Interval


@dataclass(frozen=True)
class Gain:
    """What each embedder finds, and what the trained one finds more, paired by question."""

    base: Score
    trained: Score
    difference: Score

    @property
    def is_better(self) -> bool:
        """Return whether the whole interval of recall's difference is above nothing."""
        return self.difference.recall.low > _NOTHING


def score(ranks: Sequence[float], params: GateParams) -> Score:
    """Return recall and mean reciprocal rank of ranks, with their intervals."""
    drawn = _drawn(params)
    hits, reciprocal = _values(ranks, params)
    return Score(bootstrap_mean(hits, **drawn), bootstrap_mean(reciprocal, **drawn))


def compare(base: Sequence[float], trained: Sequence[float], params: GateParams) -> Gain:
    """Return what ranks of the same questions say of the two embedders."""
    before, after = _values(base, params), _values(trained, params)
    recall, mrr = (
        paired_bootstrap(now, then, **_drawn(params))
        for now, then in zip(after, before, strict=True)
    )
    return Gain(score(base, params), score(trained, params), Score(recall, mrr))


def _values(ranks: Sequence[float], params: GateParams) -> tuple[list[float], list[float]]:
    hits = [float(rank <= params.recall_at) for rank in ranks]
    return hits, [1 / rank for rank in ranks]


def _drawn(params: GateParams) -> dict[str, Any]:
    return {
        "confidence": params.confidence,
        "resamples": params.resamples,
        "seed": params.seed,
    }
