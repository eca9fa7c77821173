"""The profile of what was accepted: `profile.json`, which the next intake keeps as its reference.

It is small (below 200 kB whatever the set's size) and holds no text of any record but its words."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tasks.embedding.vector_memo import VectorMemo, remembered
from tasks.models.manifest import ModelManifest
from tasks.records.text import text_sha256, text_tokens
from tasks.stage.outputs import write_atomically
from tasks.stage.params import ComputeParams
from tasks.validation.features import SCRIPTS, FeatureRow
from tasks.validation.raw_rows import id_digests

PROFILE_FILE = "profile.json"

VERSION = 1

_TERMS = 1000

_TERM_CHARACTERS = 24

_SLICES = 200

_SLICE_CHARACTERS = 64

_BINS_AN_OCTAVE = 4

_LONGEST_BINS = 4 * 32

_SALT = "validation-sample"

_KEPT_CHARACTERS = 4000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Histogram(_Model):
    """How many texts have a length in each bin, four bins an octave: bin 0 is the empty text,
    bin b lengths from 2**((b - 1) / 4) up to 2**(b / 4). With some quantiles, in characters.
    """

    counts: list[int]
    quantiles: dict[str, float]


class Vocabulary(_Model):
    """The most frequent words of `rows` records and their share of all `words` of these."""

    rows: int
    words: int
    terms: dict[str, float]


class Embedding(_Model):
    """The mean of the unit vectors of `rows` records, and the embedder that made them."""

    embedder: str
    rows: int
    mean: list[float]


class Profile(_Model):
    """What an accepted set looks like. Shares are of the records, of the letters, of the words."""

    version: int
    records: int
    documents: int
    lengths: dict[str, Histogram]
    slices: dict[str, float]
    scripts: dict[str, float]
    vocabulary: Vocabulary
    embedding: Embedding | None

    def write(self, folder: Path) -> None:
        """Write `profile.json` into a folder."""
        text = json.dumps(self.model_dump(), ensure_ascii=False, indent=1)
        write_atomically(folder / PROFILE_FILE, text + "\n")


class Lengths:
    """Lengths, counted."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, lengths: Sequence[int]) -> None:
        """Count some lengths."""
        self._counts.update(lengths)

    def histogram(self) -> Histogram:
        """Return their histogram and quantiles."""
        bins = [0] * (1 + max(map(_bin, self._counts), default=-1))
        for length, count in self._counts.items():
            bins[_bin(length)] += count
        return Histogram(counts=bins, quantiles=self._quantiles())

    def _quantiles(self) -> dict[str, float]:
        if not self._counts:
            return {}
        values = np.array(sorted(self._counts))
        below = np.cumsum([self._counts[value] for value in values.tolist()])
        shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
        places = {share: np.searchsorted(below, share * below[-1]) for share in shares}
        return {f"{share:g}": float(values[place]) for share, place in places.items()}


def _bin(length: int) -> int:
    if length == 0:
        return 0
    return min(1 + int(_BINS_AN_OCTAVE * math.log2(length)), _LONGEST_BINS)


class Sample:
    """The texts of at most `size` rows, those whose hashed ids are lowest: the same ones night
    after night, as far as the rows are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[tuple[bytes, str]] = []
        self._bound: bytes | None = None

    def add(self, rows: Sequence[FeatureRow]) -> None:
        """Look at some rows."""
        digests = id_digests([f"{_SALT}\0{row.features['id']}" for row in rows])
        for digest, row in zip(digests.tolist(), rows, strict=True):
            if self._bound is None or digest < self._bound:
                self._held.append((digest, row.text[:_KEPT_CHARACTERS]))
        if len(self._held) > self._size:
            self._held = sorted(self._held)[: self._size]
            self._bound = self._held[-1][0]

    def texts(self) -> list[str]:
        """Return the texts, lowest hash first: a shorter sample is a prefix of a longer one."""
        return [text for _, text in sorted(self._held)]


class Profiler:
    """Gathers a profile from accepted rows, a batch at a time, in bounded memory."""

    def __init__(self, vocabulary_rows: int) -> None:
        self._lengths = {name: Lengths() for name in ("question", "answer", "document")}
        self._slices: Counter[str] = Counter()
        self._scripts = np.zeros(len(SCRIPTS), np.int64)
        self._sample = Sample(vocabulary_rows)
        self.records = 0
        self.documents = 0

    def add_records(self, rows: Sequence[FeatureRow]) -> None:
        """Take accepted records in."""
        if not rows:
            return
        self.records += len(rows)
        for name in ("question", "answer"):
            self._lengths[name].add([row.features[f"{name}_characters"] for row in rows])
        self._slices.update(row.features["slice"] for row in rows)
        self._scripts += np.array([row.scripts for row in rows]).sum(0)
        self._sample.add(rows)

    def add_documents(self, rows: Sequence[FeatureRow]) -> None:
        """Take accepted documents in."""
        self.documents += len(rows)
        self._lengths["document"].add([row.features["text_characters"] for row in rows])

    @property
    def slices(self) -> dict[str, int]:
        """Return how many records each slice has."""
        return dict(sorted(self._slices.items()))

    @property
    def texts(self) -> list[str]:
        """Return texts of records chosen by hashed id, for words and vectors."""
        return self._sample.texts()

    def profile(self, embedding: Embedding | None) -> Profile:
        """Return the profile of everything that was taken in."""
        letters = int(self._scripts.sum())
        scripts = zip(SCRIPTS, self._scripts.tolist(), strict=True)
        return Profile(
            version=VERSION,
            records=self.records,
            documents=self.documents,
            lengths={name: lengths.histogram() for name, lengths in self._lengths.items()},
            slices=_shares(self._slices, _SLICES),
            scripts={name: round(x / letters, 6) for name, x in scripts} if letters else {},
            vocabulary=_vocabulary(self.texts),
            embedding=embedding,
        )


def _vocabulary(texts: Sequence[str]) -> Vocabulary:
    words = Counter(token[:_TERM_CHARACTERS] for text in texts for token in text_tokens(text))
    terms = _shares(words, _TERMS)
    return Vocabulary(rows=len(texts), words=words.total(), terms=terms)


def _shares(counts: Counter[str], most: int) -> dict[str, float]:
    """Return the shares of the most frequent names, sorted; names of equal count by name."""
    total = counts.total()
    chosen = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    return {_short(name): round(count / total, 8) for name, count in chosen}


def _short(name: str) -> str:
    return name if len(name) <= _SLICE_CHARACTERS else f"sha256:{text_sha256(name)[:16]}"


def mean_vector(vectors: NDArray[np.float32]) -> list[float]:
    """Return the mean of vectors, rounded to what survives another order of summation."""
    mean: list[float] = vectors.mean(axis=0, dtype=np.float64).round(6).tolist()
    return mean


def embed_set(
    texts: Sequence[str], manifest: Path, store: Path, compute: ComputeParams, memos: Path
) -> Embedding | None:
    """Return the mean of the texts' unit vectors, None where there are no texts.

    The embedder is loaded only where the memo does not know every text: torch costs seconds.
    """
    if not texts:
        return None
    digest = ModelManifest.read(manifest).identity

    def encode(new: Sequence[str]) -> NDArray[np.float32]:
        from tasks.embedding.embedder import Embedder
        from tasks.models.loading import prepare_device

        embedder = Embedder.load(manifest, store, device=prepare_device(compute))
        return embedder.encode(new)

    vectors = remembered(texts, VectorMemo(memos, digest), encode)
    return Embedding(embedder=digest, rows=len(texts), mean=mean_vector(vectors))
