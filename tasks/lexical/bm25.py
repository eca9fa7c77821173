"""BM25 over words, parts of code identifiers and bigrams of unspaced scripts."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import regex

from tasks.records.text import UNSPACED
from tasks.stage.errors import DataError

Positions = npt.NDArray[np.int64]

Scores = npt.NDArray[np.float32]

_BLOCK = 64


def best_positions(scores: npt.NDArray[np.floating[Any]], count: int) -> Positions:
    """Return the columns of the `count` highest scores of each row, best first, ties by column.

    Scores are finite, (rows, columns); all columns come back where there are fewer than `count`.
    """
    count = min(count, scores.shape[1])
    best = [best_of_row(row, count) for row in scores]
    return np.stack(best) if best else np.empty((0, count), np.int64)


def best_of_row(scores: npt.NDArray[np.floating[Any]], count: int) -> Positions:
    """Return the positions of the `count` highest scores, best first, ties by position.

    `count` is at most the number of scores. The maxima of blocks give a bound that few scores
    reach, so that only these are sorted.
    """
    if count == 0:
        return np.empty(0, np.int64)
    candidates = np.arange(len(scores))
    rows = len(scores) // _BLOCK
    if rows >= count:
        # Strided blocks: the maximum runs along the memory. Each of `count` blocks holds a score
        # that is at least the bound, so the best `count` scores are too.
        tops = scores[: rows * _BLOCK].reshape(_BLOCK, rows).max(axis=0)
        candidates = np.flatnonzero(scores >= np.partition(tops, rows - count)[rows - count])
    values = scores[candidates]
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = candidates[values > least]
    ties = candidates[values == least][: count - len(above)]
    above = above[np.argsort(-scores[above], kind="stable")]
    return np.concatenate([above, ties]).astype(np.int64)


_RUN = regex.compile(rf"[{UNSPACED}][{UNSPACED}\p{{M}}]*|[^\W{UNSPACED}]+(?:\.[^\W{UNSPACED}]+)*")

_UNSPACED = regex.compile(f"[{UNSPACED}]")

# Parts of an identifier begin after an underscore, at a capital after a small letter, at the last
# capital of a run (HTTPServer), and where letters and digits meet.
_BORDERS = regex.compile(
    r"_+|(?<=\p{Ll})(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll})|(?<=\p{L})(?=\d)|(?<=\d)(?=\p{L})"
)


def lexical_tokens(text: str) -> list[str]:
    """Return the terms of a text, in order, casefolded.

    A dotted or snake or camel identifier gives itself whole, its dotted pieces and their parts;
    Han, kana, Thai and Hangul give bigrams of characters (a lone character gives itself).
    """
    terms: list[str] = []
    for match in _RUN.finditer(unicodedata.normalize("NFKC", text)):
        run = match.group()
        terms.extend(_bigrams(run) if _UNSPACED.match(run) else _identifier_terms(run))
    return terms


def _bigrams(run: str) -> list[str]:
    return [run] if len(run) == 1 else [run[at : at + 2] for at in range(len(run) - 1)]


def _identifier_terms(run: str) -> Iterator[str]:
    pieces = run.split(".")
    yield run.casefold()
    for piece in pieces:
        if len(pieces) > 1:
            yield piece.casefold()
        parts = [part for part in _BORDERS.split(piece) if part]
        if parts != [piece]:
            yield from (part.casefold() for part in parts)


@dataclass(frozen=True)
class LexicalIndex:
    """A BM25 index (Lucene's variant, k1 1.5, b 0.75) over texts known by their positions."""

    _ranker: Any
    size: int

    @classmethod
    def build(cls, texts: Sequence[str]) -> "LexicalIndex":
        """Return the index of the texts; equal texts give equal files, whatever the hash seed.

        Raises:
            DataError: there is nothing to index.
        """
        if not texts:
            raise DataError(
                "there are no texts to index; expected at least one",
                "give the data set documents, or leave retrieval out",
            )
        terms = [lexical_tokens(text) for text in texts]
        # bm25s numbers terms by iterating over a set, which the hash seed shuffles.
        vocabulary = {
            term: number for number, term in enumerate(sorted({t for row in terms for t in row}))
        }
        ranker = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
        ids = [[vocabulary[term] for term in row] for row in terms]
        ranker.index((ids, vocabulary), show_progress=False)
        return cls(ranker, len(texts))

    def save(self, folder: Path) -> None:
        """Write the index into a folder."""
        self._ranker.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path) -> "LexicalIndex":
        """Return the index that `save` wrote."""
        ranker = bm25s.BM25.load(folder)
        return cls(ranker, int(ranker.scores["num_docs"]))

    def search(
        self, queries: Sequence[str], count: int, among: Positions | None = None
    ) -> tuple[Positions, Scores]:
        """Return the best `count` positions a query and their scores, both (queries, count), best
        first.

        `count` is cut to the size of the index. Equal scores stand in order of position; a text
        that shares no term with the query scores zero. Where `among` is given (positions in
        ascending order), only these texts are ranked.
        """
        count = min(count, self.size if among is None else len(among))
        positions = np.empty((len(queries), count), np.int64)
        scores = np.empty((len(queries), count), np.float32)
        for row, query in enumerate(queries):
            found = self._scores(query)
            found = found if among is None else found[among]
            best = best_of_row(found, count)
            scores[row] = found[best]
            positions[row] = best if among is None else among[best]
        return positions, scores

    def _scores(self, query: str) -> Scores:
        """Return the score of every text for one query; a term that is repeated counts once."""
        terms = self._ranker.get_tokens_ids(list(dict.fromkeys(lexical_tokens(query))))
        if not terms:
            return np.zeros(self.size, np.float32)
        scores: Scores = self._ranker.get_scores_from_ids(terms)
        return scores
