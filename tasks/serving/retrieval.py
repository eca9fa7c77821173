"""Hybrid search over passages: BM25 and dense vectors, fused by reciprocal rank."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.records.lexical import LexicalIndex, best_positions
from tasks.records.passages import Passage, read_passages, write_passages
from tasks.stage.errors import ConfigError
from tasks.stage.params import StageParams

if TYPE_CHECKING:
    from tasks.lm.embedding import Embedder

INDEX_FILE = "index.json"
_PASSAGES_FILE = "passages.jsonl"
_VECTORS_FILE = "vectors.npy"
_LEXICAL_FOLDER = "bm25"
_QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """A passage and its fused score; the score orders passages and means nothing else."""

    passage: Passage
    score: float


class IndexSettings(StageParams):
    """`index.json`: what an index was built with."""

    embedder: str = Field(description="digest of the embedder; questions need the same one")
    documents: int = Field(ge=0)
    passages: int = Field(ge=0)
    passage_words: int = Field(ge=1)
    passage_overlap_words: int = Field(ge=0)
    candidates: int = Field(ge=1, description="passages taken from each ranking before fusion")
    rank_constant: int = Field(ge=1, description="k of reciprocal rank fusion")
    lexical_weight: float = Field(gt=0, description="weight of BM25's ranks; dense ranks have 1")


@dataclass(frozen=True)
class Index:
    """Passages with their BM25 index and their unit vectors; all three empty or none."""

    settings: IndexSettings
    passages: tuple[Passage, ...]
    lexical: LexicalIndex | None
    vectors: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """The index that `save` wrote."""
        text = (folder / INDEX_FILE).read_text(encoding="utf-8")
        settings = IndexSettings.model_validate_json(text)
        lexical = LexicalIndex.load(folder / _LEXICAL_FOLDER) if settings.passages else None
        vectors = np.load(folder / _VECTORS_FILE, allow_pickle=False)
        return cls(settings, tuple(read_passages(folder / _PASSAGES_FILE)), lexical, vectors)

    def save(self, folder: Path) -> None:
        """Write the index into an existing folder."""
        write_passages(folder / _PASSAGES_FILE, self.passages)
        np.save(folder / _VECTORS_FILE, self.vectors, allow_pickle=False)
        if self.lexical is not None:
            self.lexical.save(folder / _LEXICAL_FOLDER)
        text = self.settings.model_dump_json(indent=1) + "\n"
        (folder / INDEX_FILE).write_text(text, encoding="utf-8")

    def search(
        self, questions: Sequence[str], count: int, embedder: "Embedder"
    ) -> list[list[ScoredPassage]]:
        """The best `count` passages for each question, best first; none from an empty index.

        Raises:
            ConfigError: the embedder is not the one that the index was built with.
        """
        if self.lexical is None:
            return [[] for _ in questions]
        if embedder.digest != self.settings.embedder:
            raise ConfigError(
                f"the index was built with embedder {self.settings.embedder[:12]} and is asked "
                f"with {embedder.digest[:12]}; their vectors can't be compared",
                "run `nightloom run`, so that the index is built with the embedder in use",
            )
        depth = max(count, self.settings.candidates)
        lexical, scores = self.lexical.search(questions, depth)
        dense = self._nearest(embedder.encode(questions), depth)
        found = []
        for question in range(len(questions)):
            matching = lexical[question][scores[question] > 0]
            fused = fuse_rankings(
                [matching.tolist(), dense[question].tolist()],
                weights=[self.settings.lexical_weight, 1.0],
                constant=self.settings.rank_constant,
            )[:count]
            found.append([ScoredPassage(self.passages[at], score) for at, score in fused])
        return found

    def _nearest(self, questions: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Positions of the passages with the highest cosine, exact, (questions, count)."""
        blocks = [
            best_positions(questions[at : at + _QUESTIONS_AT_ONCE] @ self.vectors.T, count)
            for at in range(0, len(questions), _QUESTIONS_AT_ONCE)
        ]
        return np.concatenate(blocks) if blocks else np.empty((0, count), np.int64)


def fuse_rankings(
    rankings: Sequence[Sequence[int]], *, weights: Sequence[float], constant: int
) -> list[tuple[int, float]]:
    """Items with the sum of weight / (constant + rank) over rankings, best first, ties by item.

    Ranks begin at 1; a ranking that lacks an item adds nothing to it (Cormack, Clarke and
    Buettcher, Reciprocal Rank Fusion, SIGIR 2009, section 2; the weights are an addition).
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, item in enumerate(ranking, start=1):
            scores[item] += weight / (constant + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
