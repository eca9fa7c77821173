"""What a system retrieves from: an index with its embedder, searched for many records at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.evaluation.retrieval_metrics import DEPTHS
from tasks.lm.embedding import Embedder
from tasks.records.record import Record
from tasks.serving.retrieval import Index, ScoredPassage


@dataclass(frozen=True)
class Library:
    """An index, the manifest of its embedder, and how many passages a prompt shows of it."""

    index: Index
    embedder: Path
    store: Path
    device: torch.device
    passages: int

    def find(self, records: Sequence[Record]) -> list[list[ScoredPassage]]:
        """The passages for every record's question, at the deepest depth that is measured.

        Embedder and reranker are in memory until this returns.

        Raises:
            ConfigError: the index was built with another embedder, or its reranker is not there.
        """
        embedder = Embedder.load(self.embedder, self.store, device=self.device)
        depth = max(*DEPTHS, self.passages)
        index = self.index.with_reranker(self.store, self.device)
        return index.search([record.question for record in records], depth, embedder)
