"""Texts that wait for their vectors: made in small parts, so that answers wait for one part alone.

The engine's thread does all of it: an embedder's tokenizer can't be used by two threads at once.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.embedding.embedder import Embedder
from tasks.serving.memory_budget import MemoryBudget
from tasks.serving.requests import (
    DimensionsError,
    Embedded,
    EmbeddingRequest,
    Event,
    NoMemoryError,
    TooLongTextError,
)

# Bytes of a part, some 500 tokens: as long as a pass of prompts keeps answers waiting. So many more
# are counted for each text, for the embedder's own marks.
_PART_BYTES = 2000
_MARKS_BYTES = 16
# The embedder puts so many tokens of several texts through at once, or those of one text.
_PASS_TOKENS = 2048
# Numbers that a token takes in an encoder's layer beside attention, in multiples of a vector's:
# hidden states, queries, keys, values and a feed-forward layer four times as wide, in and out.
_NUMBERS_A_TOKEN = 16
# Of a vector's numbers a head attends to at least so many.
_HEAD_NUMBERS = 32
# Bytes of one number of an answer: in the vector, and as text.
_ANSWER_BYTES = 32

Finish = Callable[[EmbeddingRequest, Event | None], None]


@dataclass
class _Active:
    """A request that is being embedded; `parts` are places of texts, the longest first."""

    request: EmbeddingRequest
    needed: int
    parts: deque[list[int]]
    vectors: NDArray[np.float32]
    tokens: int = 0
    cut: int = 0


@dataclass(eq=False)
class EmbeddingQueue:
    """Requests in turn, a part of each; `finish` is told what became of one, None where it left."""

    embedder: Embedder
    budget: MemoryBudget
    device: torch.device
    finish: Finish
    _waiting: deque[EmbeddingRequest] = field(default_factory=deque)
    _active: deque[_Active] = field(default_factory=deque)

    def __bool__(self) -> bool:
        """Return whether there is something to do."""
        return bool(self._waiting or self._active)

    def check_dimensions(self, dimensions: int | None) -> None:
        """Refuse to make vectors of another length than the embedder's.

        Raises:
            DimensionsError: so many numbers are asked for.
        """
        made = self.embedder.dimension
        if dimensions not in (None, made):
            raise DimensionsError(
                f"the embedder makes vectors of {made} numbers, not of {dimensions}; a part of "
                "them would order texts otherwise",
                f"leave dimensions out, or send {made}",
            )

    def add(self, request: EmbeddingRequest) -> None:
        """Let a request wait; from any thread."""
        self._waiting.append(request)

    def step(self) -> None:
        """Let in what memory has room for, and embed one part."""
        while self._waiting and self._enter(self._waiting[0]):
            self._waiting.popleft()
        if not self._active:
            return
        active = self._active.popleft()
        try:
            is_over = active.request.left or self._embed_part(active)
        except Exception as error:  # noqa: BLE001  told to who asked
            self._end(active, error)
            return
        if not is_over:
            self._active.append(active)
        elif active.request.left:
            self._end(active, None)
        else:
            self._end(active, self._embedded(active))

    def fail_all(self, error: Exception) -> None:
        """Tell everyone who waits that it broke."""
        for active in list(self._active):
            self._end(active, error)
        self._active.clear()
        while self._waiting:
            self.finish(self._waiting.popleft(), error)

    def _enter(self, request: EmbeddingRequest) -> bool:
        """Return whether a request no longer waits: it is being embedded, or was refused."""
        needed = needed_bytes(self.embedder, request.texts)
        promised = sum(active.needed for active in self._active)
        if self.budget.claim(self, promised + needed, self.device):
            shape = (len(request.texts), self.embedder.dimension)
            vectors = np.empty(shape, dtype=np.float32)
            self._active.append(_Active(request, needed, _parts(request.texts), vectors))
            return True
        if self._active:
            return False
        self.finish(request, self._no_memory(needed))
        return True

    def _embed_part(self, active: _Active) -> bool:
        """Return whether all texts are embedded, once one more part is."""
        places = active.parts.popleft()
        texts = [active.request.texts[place] for place in places]
        counts = [len(ids) for ids in self.embedder.tokenizer(texts, verbose=False).input_ids]
        most = self.embedder.max_tokens
        for place, count in zip(places, counts, strict=True):
            if count > most and not active.request.truncates:
                raise TooLongTextError(
                    f"text {place} has {count} tokens; the embedder reads {most} of one",
                    "send shorter texts, or truncate: true where their beginnings are enough",
                )
        active.vectors[places] = self.embedder.encode(texts)
        active.tokens += sum(min(count, most) for count in counts)
        active.cut += sum(count > most for count in counts)
        return not active.parts

    def _embedded(self, active: _Active) -> Embedded:
        embedder = self.embedder
        return Embedded(
            active.vectors, active.tokens, active.cut, embedder.digest, embedder.max_tokens
        )

    def _end(self, active: _Active, event: Event | None) -> None:
        left = sum(other.needed for other in self._active if other is not active)
        self.budget.release(self)
        if left:
            self.budget.claim(self, left, self.device)
        self.finish(active.request, event)

    def _no_memory(self, needed: int) -> NoMemoryError:
        free = self.budget.available(self, self.device)
        return NoMemoryError(
            f"so many texts of this length take {needed / 1e6:.0f} MB of memory while they are "
            f"embedded, and {max(0, free) / 1e6:.0f} MB are left",
            "send fewer or shorter texts, or again later",
        )


def needed_bytes(embedder: Embedder, texts: Sequence[str]) -> int:
    """Return about how much memory texts take while they are embedded: a pass, and the answer.

    A text has at most as many tokens as bytes, and the embedder reads `max_tokens` of it. Attention
    is counted as where all its scores are held.
    """
    longest = max(len(text.encode()) for text in texts)
    length = min(longest, embedder.max_tokens)
    tokens = max(length, _PASS_TOKENS)
    width = embedder.dimension
    numbers = tokens * (_NUMBERS_A_TOKEN * width + -(-width // _HEAD_NUMBERS) * length)
    return numbers * torch.float32.itemsize + len(texts) * width * _ANSWER_BYTES


def _parts(texts: Sequence[str]) -> deque[list[int]]:
    """Return the places of texts of like length together, the longest first."""
    sizes = [len(text.encode()) + _MARKS_BYTES for text in texts]
    parts: deque[list[int]] = deque()
    for place in sorted(range(len(texts)), key=sizes.__getitem__, reverse=True):
        if parts and (len(parts[-1]) + 1) * sizes[parts[-1][0]] <= _PART_BYTES:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts
