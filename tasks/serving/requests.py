"""What is asked of an engine, answers and embeddings, and what its asker is told."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.records.schema import Message
from tasks.retrieval.filters import Where
from tasks.retrieval.index import ScoredPassage
from tasks.stage.errors import NightloomError


class NoMemoryError(NightloomError):
    """There is no memory for what is asked: an answer's keys and values, or vectors."""


class TooLongTextError(NightloomError):
    """A text is longer than what the embedder reads of one."""


class UntrainedError(NightloomError):
    """Tools are offered to a model that was not trained to call them."""


class DimensionsError(NightloomError):
    """Vectors of another length are asked for than the embedder makes."""


@dataclass(frozen=True)
class Begun:
    """An answer's beginning: the passages in its prompt, best first, and what identifies both."""

    passages: tuple[ScoredPassage, ...]
    prompt_sha256: str
    prompt_tokens: int


@dataclass(frozen=True)
class TextDelta:
    """The next part of an answer's text; whole characters."""

    text: str


@dataclass(frozen=True)
class Reply:
    """A whole answer; `is_cut` says that the bound on new tokens ended it, not the model or a stop
    text.

    `token_ids` hold no end token, but those of a stop text, which `text` lacks. Milliseconds count
    from when the question came in.
    """

    begun: Begun
    text: str
    token_ids: tuple[int, ...]
    is_cut: bool
    first_token_ms: float
    latency_ms: float


@dataclass(frozen=True)
class Embedded:
    """The unit vectors of texts, (texts, dimension), in the texts' order, and by which embedder.

    `tokens` are those that the embedder read; `cut` texts had more than `max_tokens`.
    """

    vectors: NDArray[np.float32]
    tokens: int
    cut: int
    digest: str
    max_tokens: int


Event = Begun | TextDelta | Reply | Embedded | Exception
Listener = Callable[[Event], None]


@dataclass(eq=False)
class AnswerRequest:
    """A question on its way to an answer.

    The listener is told when the answer begins, each piece of its text, and the whole of it; or an
    error, after which comes nothing. `left` is set by who no longer wants the answer. The answer
    ends before the first of the `stops`; `begins` is its first text, which
    the listener is not told.
    """

    turns: Sequence[Message]
    listener: Listener
    max_new_tokens: int
    where: Where | None
    stops: Sequence[str] = ()
    begins: str = ""
    asked: float = field(default_factory=time.perf_counter)
    left: bool = False

    def leave(self) -> None:
        """Let the answer be dropped."""
        self.left = True


@dataclass(eq=False)
class EmbeddingRequest:
    """Texts on their way to their vectors; the listener is told `Embedded`, or an error.

    `truncates` says that of a text that is too long its beginning is enough.
    """

    texts: Sequence[str]
    listener: Listener
    truncates: bool
    left: bool = False

    def leave(self) -> None:
        """Let the vectors be dropped."""
        self.left = True
