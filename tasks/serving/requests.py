"""A question on its way to an answer, and what its asker is told of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tasks.records.schema import Message
from tasks.retrieval.filters import Where
from tasks.retrieval.index import ScoredPassage
from tasks.stage.errors import NightloomError


class NoMemoryError(NightloomError):
    """There is no memory for the keys and values of a question and its answer."""


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
    """A whole answer; `is_cut` says that the bound on new tokens ended it, not the model.

    `token_ids` hold no end token. Milliseconds count from when the question came in.
    """

    begun: Begun
    text: str
    token_ids: tuple[int, ...]
    is_cut: bool
    first_token_ms: float
    latency_ms: float


Event = Begun | TextDelta | Reply | Exception
Listener = Callable[[Event], None]


@dataclass(eq=False)
class AnswerRequest:
    """A question on its way to an answer.

    The listener is told when the answer begins, each piece of its text, and the whole of it; or an
    error, after which comes nothing. `left` is set by who no longer wants the answer.
    """

    turns: Sequence[Message]
    listener: Listener
    max_new_tokens: int
    where: Where | None
    asked: float = field(default_factory=time.perf_counter)
    left: bool = False

    def leave(self) -> None:
        """Let the answer be dropped."""
        self.left = True
