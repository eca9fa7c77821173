"""Hybrid search over passages: BM25 and dense vectors, fused by reciprocal rank.

A half of weight 0 is not searched: without the dense one, no question is embedded. A cross-encoder
may order the best of what was found anew.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from tasks.lexical.bm25 import LexicalIndex, Positions
from tasks.lexical.chunking import Passage, passages_sha256, read_passages, write_passages
from tasks.retrieval.corrections import Corrections
from tasks.retrieval.dense import DenseIndex, Vectors
from tasks.retrieval.filters import PassageColumns, Where
from tasks.retrieval.fusion import Halves, Weights
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.params import StageParams

if TYPE_CHECKING:
    import torch

    from tasks.embedding.embedder import Embedder
    from tasks.retrieval.reranking import Reranker

INDEX_FILE = "index.json"
_PASSAGES_FILE = "passages.jsonl"
_LEXICAL_FOLDER = "bm25"
# Of how an index lies on the disk and of how documents are cut and terms are made. Version 1 had
# no number, 2 knew no reranker, 3 no weight of the dense ranks, which was 1.
FORMAT = 4
_READ = (2, 3, FORMAT)


@dataclass(frozen=True, slots=True)
class ScoredPassage:
    """A passage and its score: the reranker's where one read it, else the fused one.

    Scores of one kind order passages and mean nothing else.
    """

    passage: Passage
    score: float


class RerankerSettings(StageParams):
    """Which cross-encoder reads the passages that search found, and how many of them."""

    digest: str = Field(description="of its weights in the store of models")
    source: str = Field(description="what params named it, for messages")
    passages: int = Field(ge=1, description="the best so many are read; others stay behind them")

    def folder(self, store: Path) -> Path:
        """Return where the store keeps its weights.

        Raises:
            ConfigError: the store does not hold them.
        """
        folder = store / self.digest
        if not folder.is_dir():
            raise ConfigError(
                f"the index was built to be searched with the reranker {self.source} "
                f"({self.digest[:12]}), which is not in {store}; without it other passages would "
                "come first than those that were evaluated",
                "run `nightloom run`, which resolves it first, or copy its folder into the store",
            )
        return folder


class WeightsMeasured(StageParams):
    """What the weights of an index rest on: mean reciprocal ranks on validation questions.

    The means are null where no question names a document of the index.
    """

    questions: int = Field(ge=0)
    reason: Literal["usual", "better", "noise", "too_few", "fixed"]
    lexical: float | None = Field(description="of BM25 alone")
    dense: float | None = Field(description="of dense search alone")
    fused: float | None = Field(description="with the weights of the index")

    def numbers(self) -> dict[str, float]:
        """Return the means that are there, by names that say where they come from."""
        means = {"lexical": self.lexical, "dense": self.dense, "fused": self.fused}
        return {f"validation_mrr_{name}": mean for name, mean in means.items() if mean is not None}


class IndexSettings(StageParams):
    """`index.json`: what an index was built with."""

    format: int = Field(description="version of the files' form")
    embedder: str = Field(description="digest of the embedder; questions need the same one")
    documents: int = Field(ge=0)
    passages: int = Field(ge=0)
    passages_sha256: str = Field(description="over the passages' ids and hashes, in their order")
    passage_words: int = Field(ge=1)
    passage_overlap_words: int = Field(ge=0)
    candidates: int = Field(ge=1, description="passages taken from each ranking before fusion")
    rank_constant: int = Field(ge=1, description="k of reciprocal rank fusion")
    lexical_weight: float = Field(ge=0, description="weight of BM25's ranks; 0: they don't count")
    dense_search: Literal["exact", "approximate"]
    dense_recall: float = Field(ge=0, le=1, description="share of exact search's results found")
    # The defaults are what earlier formats meant, which had no such lines.
    dense_weight: float = Field(
        default=1.0, ge=0, description="weight of the dense ranks; 0: there are no vectors"
    )
    weights_measured: WeightsMeasured | None = None
    reranker: RerankerSettings | None = None

    @model_validator(mode="after")
    def _has_a_half(self) -> Self:
        if self.lexical_weight == self.dense_weight == 0:
            raise ValueError("one of the two weights must be above 0")
        return self

    @property
    def weights(self) -> Weights:
        """Return how much each half counts."""
        return Weights(self.lexical_weight, self.dense_weight)

    @property
    def needs_embedder(self) -> bool:
        """Return whether a search embeds its question."""
        return self.passages > 0 and self.dense_weight > 0

    @classmethod
    def read(cls, folder: Path) -> "IndexSettings":
        """Return the settings of an index.

        Raises:
            ConfigError: the folder is no index, or one of another format.
        """
        path = folder / INDEX_FILE
        if not path.exists():
            raise ConfigError(
                f"{folder} holds no {INDEX_FILE}, so it is not an index",
                "name an index that a night made, e.g. data/index",
            )
        text = path.read_text(encoding="utf-8")
        found = json.loads(text).get("format", 1)
        if found not in _READ:
            raise ConfigError(
                f"the index in {folder} has format {found}; this version reads formats "
                f"{_READ[0]} to {FORMAT}, and would cut or rank otherwise than the index "
                "was built",
                "run `nightloom run`, which indexes the documents again, or use the version of "
                "nightloom that built it",
            )
        return cls.model_validate_json(text)


@dataclass(frozen=True)
class Index:
    """Passages with their BM25 index and their vectors; all three empty or none.

    `reranker` is None until `with_reranker`, and where the settings name none.
    """

    settings: IndexSettings
    passages: tuple[Passage, ...]
    lexical: LexicalIndex | None
    dense: DenseIndex
    reranker: "Reranker | None" = None

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Return the index that `save` wrote.

        Raises:
            ConfigError: the folder is no index, or one of another format.
            DataError: its parts do not belong together.
        """
        settings = IndexSettings.read(folder)
        passages = tuple(read_passages(folder / _PASSAGES_FILE))
        lexical = LexicalIndex.load(folder / _LEXICAL_FOLDER) if settings.passages else None
        dense = DenseIndex.load(folder, approximate=settings.dense_search == "approximate")
        texts = 0 if lexical is None else lexical.size
        vectors = len(passages) if settings.needs_embedder else 0
        if passages_sha256(passages) != settings.passages_sha256 or (
            (texts, len(dense.vectors)) != (len(passages), vectors)
        ):
            raise DataError(
                f"the index in {folder} holds {len(passages)} passages, {len(dense.vectors)} "
                f"vectors and {texts} texts for BM25, and was built from {settings.passages} "
                "passages; they do not belong together, so it would find the wrong ones",
                "run `nightloom run`, which indexes the documents again",
            )
        return cls(settings, passages, lexical, dense)

    def save(self, folder: Path) -> None:
        """Write the index into an existing folder."""
        write_passages(folder / _PASSAGES_FILE, self.passages)
        self.dense.save(folder)
        if self.lexical is not None:
            self.lexical.save(folder / _LEXICAL_FOLDER)
        text = self.settings.model_dump_json(indent=1) + "\n"
        (folder / INDEX_FILE).write_text(text, encoding="utf-8")

    def with_reranker(self, store: Path, device: "torch.device") -> "Index":
        """Return the index with the reranker that it was built for, in memory; itself if that is
        none.

        Raises:
            ConfigError: the store lacks the reranker, or it is no cross-encoder with one output.
        """
        if self.settings.reranker is None:
            return self
        from tasks.retrieval.reranking import Reranker

        folder = self.settings.reranker.folder(store)
        return replace(self, reranker=Reranker.load(folder, device=device))

    @cached_property
    def documents(self) -> frozenset[str]:
        """Return the ids of the documents that can be found."""
        return frozenset(passage.document for passage in self.passages)

    @cached_property
    def _columns(self) -> PassageColumns:
        return PassageColumns(self.passages)

    @cached_property
    def _corrections(self) -> Corrections:
        return Corrections(self.passages)

    def search(
        self,
        questions: Sequence[str],
        count: int,
        embedder: "Embedder | None",
        where: Where | None = None,
    ) -> list[list[ScoredPassage]]:
        """Return the best `count` passages for each question, best first; none from an empty index.

        Where a filter is given, only the passages that it allows are searched, and exactly.
        Corrections about something else than the question are no passages for it. The embedder may
        be None where the settings need none. BM25 alone finds nothing where no passage has a term
        of the question.

        Raises:
            ConfigError: the embedder is not the one that the index was built with, its reranker is
                not in memory, or the filter allows nothing.
            DataError: the reranker gives a score that is not finite.
        """
        if self.lexical is None:
            return [[] for _ in questions]
        vectors = self._embedded(questions, embedder)
        self._check_reranker()
        among = None if where is None else self._columns.matching(where)
        most = max(count, self.settings.candidates)
        found = self.halves(questions, vectors, most, among)
        fused = [self._scored(one) for one in found]
        return [ranked[:count] for ranked in self._rerank(questions, fused)]

    def halves(
        self,
        questions: Sequence[str],
        vectors: Vectors | None,
        most: int,
        among: Positions | None = None,
    ) -> list[Halves]:
        """Return at most `most` places a half and question, from an index that is not empty.

        `vectors` are the questions' own; None leaves the dense half empty.
        """
        assert self.lexical is not None
        depth = most + len(self._corrections)
        lexical, scores = self.lexical.search(questions, depth, among)
        near: list[list[int]] = [[] for _ in questions]
        if vectors is not None:
            near = [row.tolist() for row in self.dense.search(vectors, depth, among)]
        found = []
        for question, places, values, dense in zip(questions, lexical, scores, near, strict=True):
            other = self._corrections.of_other_subjects(question)
            rankings = (places[values > 0].tolist(), dense)
            found.append(
                Halves(*([at for at in one if at not in other][:most] for one in rankings))
            )
        return found

    def _embedded(self, questions: Sequence[str], embedder: "Embedder | None") -> Vectors | None:
        if not self.settings.needs_embedder:
            return None
        if embedder is None or embedder.digest != self.settings.embedder:
            asked = "none" if embedder is None else embedder.digest[:12]
            raise ConfigError(
                f"the index was built with embedder {self.settings.embedder[:12]} and is asked "
                f"with {asked}; their vectors can't be compared",
                "run `nightloom run`, so that the index is built with the embedder in use",
            )
        return embedder.encode(questions, purpose="query")

    def _check_reranker(self) -> None:
        named = self.settings.reranker
        if named is not None and self.reranker is None:
            raise ConfigError(
                f"the index is searched with the reranker {named.source}, which is not in memory; "
                "without it other passages would come first than those that were evaluated",
                "open the index with `Index.load(folder).with_reranker(store, device)`",
            )

    def _rerank(
        self, questions: Sequence[str], fused: Sequence[list[ScoredPassage]]
    ) -> Sequence[list[ScoredPassage]]:
        """Return what was found, the best of it in the reranker's order; of equal scores search's
        stays.

        How many are read does not depend on how many were asked for: evaluation asks for more than
        a prompt shows, and both must see the same ones first.
        """
        if self.reranker is None or self.settings.reranker is None:
            return fused
        depth = self.settings.reranker.passages
        read = [
            (question, item.passage.shown)
            for question, ranked in zip(questions, fused, strict=True)
            for item in ranked[:depth]
        ]
        scores = self.reranker.score(*([pair[side] for pair in read] for side in (0, 1)))
        given = iter(scores.tolist())
        scored = [[replace(item, score=next(given)) for item in one[:depth]] for one in fused]
        return [
            sorted(best, key=lambda item: -item.score) + ranked[depth:]
            for best, ranked in zip(scored, fused, strict=True)
        ]

    def _scored(self, halves: Halves) -> list[ScoredPassage]:
        fused = halves.fused(self.settings.weights, self.settings.rank_constant)
        return [ScoredPassage(self.passages[at], score) for at, score in fused]
