"""Search and embedding: ours beside bm25s, FAISS flat and sentence-transformers.

100,000 passages are made: words of a Zipf-like vocabulary, and unit vectors around centres. BM25
gets the same terms on both sides, dense search the same vectors, and each gives the best 50.
`bm25s` is its own `retrieve`; `faiss_flat` is FAISS's exact inner product; `sentence_transformers`
embeds 2,000 of the passages, cut to 4 to 40 words as passages of documents are of all lengths, with
the embedder of the last night, so that one must have run before (`--workspace`). Which passages are
found is compared with brute force, equal scores as equals. The time of a hybrid query leaves the
question's embedding out, which is told by itself.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tasks.embedding.embedder import Embedder
from tasks.lexical.bm25 import LexicalIndex, lexical_tokens
from tasks.models.manifest import ModelManifest
from tasks.retrieval.dense import DenseIndex, cluster_vectors
from tasks.retrieval.fusion import fuse_rankings
from tasks.stage.errors import ConfigError
from tests.benchmarks._measurement import measure, print_tasks

COUNT = 50
DIMENSION = 384
VOCABULARY = 50_000
WORDS = 40

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """Passages and questions, as texts and as unit vectors."""

    texts: list[str]
    questions: list[str]
    vectors: Vectors
    question_vectors: Vectors


def make_corpus(passages: int, questions: int, seed: int) -> Corpus:
    """Texts whose words follow Zipf's law, and vectors around centres, some of them far."""
    numbers = np.random.default_rng(seed)
    vocabulary = np.array([f"w{number:x}" for number in numbers.permutation(VOCABULARY)])
    share = 1 / np.arange(1, VOCABULARY + 1)
    share /= share.sum()

    def texts(count: int, words: int) -> list[str]:
        drawn = numbers.choice(VOCABULARY, size=(count, words), p=share)
        return [" ".join(row) for row in vocabulary[drawn]]

    centres = numbers.standard_normal((500, DIMENSION))

    def vectors(count: int) -> Vectors:
        around = centres[numbers.integers(len(centres), size=count)]
        found = around + numbers.standard_normal((count, DIMENSION))
        unit: Vectors = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return unit

    made = texts(passages, WORDS), texts(questions, 8)
    return Corpus(*made, vectors(passages), vectors(questions))


def of_all_lengths(texts: Sequence[str], seed: int) -> list[str]:
    """The texts, each cut to some number of words between 4 and all of them."""
    lengths = np.random.default_rng(seed).integers(4, WORDS + 1, size=len(texts))
    return [" ".join(text.split()[:length]) for text, length in zip(texts, lengths, strict=True)]


def recall(scores: Callable[[int], Vectors], found: Sequence[NDArray[np.int64]]) -> float:
    """The share of each question's best scores that were found; equal scores are equals."""
    shares = []
    for question, positions in enumerate(found):
        values = scores(question)
        least = np.sort(values)[-COUNT] - 1e-5
        shares.append(np.mean(values[positions] >= least))
    return float(np.mean(shares))


class Lexical:
    """BM25 on both sides, over the same terms."""

    def __init__(self, corpus: Corpus) -> None:
        self.index = LexicalIndex.build(corpus.texts)
        self.peer = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self.peer.index([lexical_tokens(text) for text in corpus.texts], show_progress=False)
        self.questions = corpus.questions

    def ours(self) -> list[NDArray[np.int64]]:
        """The best positions of each question."""
        return list(self.index.search(self.questions, COUNT)[0])

    def theirs(self) -> None:
        """The same by bm25s, its terms made inside its clock as ours are."""
        terms = [lexical_tokens(question) for question in self.questions]
        self.peer.retrieve(terms, k=COUNT, show_progress=False)

    def recall(self) -> float:
        """Against bm25s' scores of every passage."""
        terms = [list(dict.fromkeys(lexical_tokens(item))) for item in self.questions]
        return recall(lambda at: self.peer.get_scores(terms[at]), self.ours())


class Dense:
    """Exact inner products on both sides, and our approximate search."""

    def __init__(self, corpus: Corpus) -> None:
        self.index = DenseIndex(corpus.vectors, None)
        self.peer = faiss.IndexFlatIP(DIMENSION)
        self.peer.add(corpus.vectors)
        self.questions = corpus.question_vectors

    def ours(self) -> list[NDArray[np.int64]]:
        """The best positions of each question."""
        return self.index.search(self.questions, COUNT)

    def theirs(self) -> None:
        """The same by FAISS."""
        self.peer.search(self.questions, COUNT)

    def recall(self) -> float:
        """Against a plain product with every vector."""
        return recall(lambda at: self.index.vectors @ self.questions[at], self.ours())

    def approximate(self) -> dict[str, float]:
        """How long the approximate index takes to build, its recall and its queries a second."""
        started = time.perf_counter()
        index, found = cluster_vectors(
            self.index.vectors, self.questions, depth=COUNT, least_recall=0.95
        )
        built = time.perf_counter() - started
        started = time.perf_counter()
        index.search(self.questions, COUNT)
        seconds = time.perf_counter() - started
        return {
            "build_seconds": round(built, 2),
            "recall": round(found.share, 4),
            "probes": found.probes,
            "clusters": found.clusters,
            "queries_a_second": round(len(self.questions) / seconds, 1),
        }


def hybrid_milliseconds(lexical: Lexical, dense: Dense) -> list[float]:
    """Milliseconds of each question asked alone: both searches and their fusion."""
    found = []
    for question, vector in zip(lexical.questions, dense.questions, strict=True):
        started = time.perf_counter()
        positions, scores = lexical.index.search([question], COUNT)
        (nearest,) = dense.index.search(vector[None], COUNT)
        matching = positions[0][scores[0] > 0].tolist()
        fuse_rankings([matching, nearest.tolist()], weights=[2.0, 1.0], constant=5)
        found.append((time.perf_counter() - started) * 1000)
    return found


def measure_embedding(
    workspace: Path, texts: list[str], repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of both sides, and how far their vectors lie apart."""
    manifest, store = workspace / "data/models/embedder.json", workspace / ".nightloom/models"
    if not manifest.exists():
        raise ConfigError(f"{manifest} is missing", "run `nightloom run` first, or --workspace DIR")
    embedder = Embedder.load(manifest, store, device=torch.device("cpu"))
    peer = SentenceTransformer(str(ModelManifest.read(manifest).folder(store)), device="cpu")
    peer.max_seq_length = embedder.max_tokens

    def theirs() -> Vectors:
        vectors: Vectors = peer.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return vectors

    seconds = measure(
        lambda: embedder.encode(texts), {"sentence_transformers": theirs}, repeats=repeats
    )
    started = time.perf_counter()
    for text in texts[:20]:
        embedder.encode([text[:60]])
    one = (time.perf_counter() - started) / min(len(texts), 20)
    return seconds, {
        "texts": len(texts),
        "largest_difference": float(np.abs(embedder.encode(texts) - theirs()).max()),
        "one_question_ms": round(one * 1000, 2),
    }


def main() -> int:
    """Measure and print; 0 when it ran and exact search missed nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="10,000 passages, 64 embedded, 2 repeats"
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="where a night ran")
    parser.add_argument("--passages", type=int, help="passages, instead of 100,000")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    options = parser.parse_args()
    passages, asked, embedded, repeats = (
        (10_000, 40, 64, 2) if options.quick else (100_000, 200, 2000, 5)
    )
    passages, repeats = options.passages or passages, options.repeats or repeats
    torch.set_num_threads(faiss.omp_get_max_threads())
    corpus = make_corpus(passages, asked, seed=7)
    lexical, dense = Lexical(corpus), Dense(corpus)
    sides = {
        "bm25s": measure(lexical.ours, {"bm25s": lexical.theirs}, repeats=repeats),
        "faiss_flat": measure(dense.ours, {"faiss_flat": dense.theirs}, repeats=repeats),
    }
    sides["sentence_transformers"], embedding = measure_embedding(
        options.workspace, of_all_lengths(corpus.texts[:embedded], seed=8), repeats
    )
    single = hybrid_milliseconds(lexical, dense)
    figures = {
        "passages": passages,
        "count": COUNT,
        "threads": faiss.omp_get_max_threads(),
        "queries_a_second": {
            name: {
                side: round(asked / float(np.median(values)), 1) for side, values in both.items()
            }
            for name, both in sides.items()
            if name != "sentence_transformers"
        },
        "recall": {"lexical": lexical.recall(), "dense": dense.recall()},
        "hybrid_ms": {
            f"p{share}": round(float(np.percentile(single, share)), 2) for share in (50, 95)
        },
        "embedding": embedding,
        "approximate": dense.approximate(),
    }
    print_tasks("retrieval", sides, figures)
    return 0 if all(share == 1.0 for share in figures["recall"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
