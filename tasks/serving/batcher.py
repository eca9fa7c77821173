"""Questions answered together as they come: new ones enter while others are being answered.

Texts are embedded between their tokens. One thread works for one version.
Listeners are called from it and must not block.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tasks.answering.pipeline import Answerer, Prepared, prompt_sha256
from tasks.generation.batching_check import decodes_together
from tasks.generation.continuous_batching import (
    ONE_AT_A_TIME,
    DecodingBatch,
    DecodingRow,
    advance,
)
from tasks.generation.greedy_decoding import generate, stop_tokens
from tasks.generation.kv_cache import Slots
from tasks.generation.streaming import TextStream, text_of
from tasks.models.memory import release_memory
from tasks.records.schema import Message
from tasks.retrieval.filters import Where
from tasks.serving.embedding_queue import EmbeddingQueue
from tasks.serving.memory_budget import MemoryBudget
from tasks.serving.requests import (
    AnswerRequest,
    Begun,
    EmbeddingRequest,
    Event,
    Listener,
    NoMemoryError,
    Reply,
    TextDelta,
)
from tasks.serving.row_memory import cache_token_bytes, held_bytes, unwritten_bytes
from tasks.serving.stop_texts import StoppedText, cut_at_stop
from tasks.stage.errors import ConfigError, DataError

LOGGER = logging.getLogger(__name__)
_PROMPT_STEP = 256  # slots grow in steps, so that prompts of about one length share them
_IDLE_BYTES = 256_000_000  # that an engine which nobody asks may go on holding for rows
_Request = AnswerRequest | EmbeddingRequest


@dataclass
class _Active:
    """An inquiry that is being answered."""

    inquiry: AnswerRequest
    begun: Begun
    text: TextStream | StoppedText
    fed: int = 0

    @property
    def stopped(self) -> str | None:
        """Return the answer where a stop text has ended it."""
        text = self.text
        return text.text if isinstance(text, StoppedText) and text.is_stopped else None


class Batcher:
    """Answers for one version, as `Answerer.answer` would: the same prompts, passages and tokens.

    Rows are decoded together, up to the answerer's batch size. A model with which that is not exact
    (`tasks.generation.batching_check`) answers one question at a time, each in one piece.

    A row is let in once `budget` has memory for its keys and values. Until then it waits for the
    rows before it; where there are none, it is refused.
    """

    def __init__(self, answerer: Answerer, budget: MemoryBudget) -> None:
        self.answerer, self.calls_tools = answerer, answerer.calls_tools
        self._budget = budget
        with ONE_AT_A_TIME:
            self._token_bytes = cache_token_bytes(answerer.language_model.model)
        self._stops = stop_tokens(answerer.language_model)
        self._condition = threading.Condition()
        self._waiting: deque[AnswerRequest] = deque()
        self._prepared: deque[tuple[AnswerRequest, Prepared]] = deque()
        device = answerer.language_model.device
        self._embedding = EmbeddingQueue(answerer.embedder, budget, device, self._finish)
        self._active: dict[int, _Active] = {}
        self._limits: dict[int, int] = {}
        self._batch: DecodingBatch | None = None
        self._number = 0
        self._unanswered = 0
        self._is_open = True
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """Return how many questions wait or are being answered."""
        return self._unanswered

    def ask(
        self,
        turns: Sequence[Message],
        listener: Listener,
        *,
        max_new_tokens: int | None = None,
        where: Where | None = None,
        stops: Sequence[str] = (),
        begins: str = "",
    ) -> AnswerRequest:
        """Return the inquiry by which the answer, which goes on after `begins`, can be left again.

        `max_new_tokens` can lower the bound of the bundle's settings, not raise it. The answer ends
        before the first of the texts `stops` that comes. Neither cuts a label: it is said whole.

        Raises:
            ConfigError: the engine takes no more questions.
        """
        bound = self.answerer.prompting.max_new_tokens
        if self.answerer.labels is not None:
            max_new_tokens, stops = None, ()
        most = min(max_new_tokens or bound, bound)
        inquiry = AnswerRequest(turns, listener, most, where, stops, begins)
        self._take(partial(self._waiting.append, inquiry))
        return inquiry

    def embed(
        self,
        texts: Sequence[str],
        listener: Listener,
        *,
        dimensions: int | None = None,
        truncates: bool = False,
    ) -> EmbeddingRequest:
        """Return the request by which the vectors of texts can be left again.

        Raises:
            ConfigError: the engine takes no more questions.
            DimensionsError: the embedder makes no vectors of so many numbers.
        """
        self._embedding.check_dimensions(dimensions)
        request = EmbeddingRequest(texts, listener, truncates)
        self._take(partial(self._embedding.add, request))
        return request

    def _take(self, add: Callable[[], None]) -> None:
        with self._condition:
            if not self._is_open:
                raise ConfigError("this version is no longer served", "ask again")
            add()
            self._unanswered += 1
            self._condition.notify()

    def close(self) -> None:
        """Take no more questions; those that were taken are still answered."""
        with self._condition:
            self._is_open = False
            self._condition.notify()

    def join(self) -> None:
        """Wait until a closed engine has given its last answer."""
        self._thread.join()

    def _work(self) -> None:
        while True:
            if not self._has_work():
                self._rest()
            with self._condition:
                while not self._has_work():
                    if not self._is_open:
                        return
                    self._condition.wait()
            try:
                self._step()
            except Exception as error:  # told to everyone who waits for an answer
                LOGGER.exception("answering failed")
                self._fail_all(error)

    def _has_work(self) -> bool:
        return bool(self._waiting or self._prepared or self._active or self._embedding)

    def _rest(self) -> None:
        """Give back the memory of many or long rows while nobody asks."""
        self._budget.release(self)
        slots = None if self._batch is None else self._batch.slots
        if slots and held_bytes(slots, self._token_bytes) > _IDLE_BYTES:
            self._batch = slots = None
            release_memory()

    def _step(self) -> None:
        """Let go who has left, let in who waits, make one token for each row, embed one part."""
        for number in [n for n, active in self._active.items() if active.inquiry.left]:
            self._drop(number)
        self._prepare()
        self._enter()
        if self._batch is not None and self._active:
            model, labels = self.answerer.language_model, self.answerer.labels
            for row in advance(model, self._batch, self._stops, self._limits, labels):
                self._tell(row)
        self._embedding.step()

    def _prepare(self) -> None:
        """Find passages and render prompts for as many of those that wait as rows are free."""
        free = self.answerer.batch_size if self._batch is None else self._batch.free_rows
        with self._condition:
            count = min(len(self._waiting), max(0, free - len(self._prepared)))
            taken = [self._waiting.popleft() for _ in range(count)]
        together = [one for one in taken if one.where is None and not (one.left or one.begins)]
        try:
            made = self.answerer.prepare([inquiry.turns for inquiry in together])
        except Exception:  # noqa: BLE001  whose question it was shows when each is tried alone
            made, together = [], []
        ready = dict(zip(together, made, strict=True))
        for inquiry in taken:
            self._prepare_one(inquiry, ready.get(inquiry))

    def _prepare_one(self, inquiry: AnswerRequest, known: Prepared | None) -> None:
        if inquiry.left:
            self._finish(inquiry)
            return
        alone = partial(self.answerer.prepare, [inquiry.turns], inquiry.where, inquiry.begins)
        try:
            [prepared] = [known] if known else alone()
            self._check_length(prepared, inquiry)
        except Exception as error:  # noqa: BLE001  told to who asked
            self._finish(inquiry, error)
        else:
            self._prepared.append((inquiry, prepared))

    def _check_length(self, prepared: Prepared, inquiry: AnswerRequest) -> None:
        model = self.answerer.language_model.model
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and len(prepared.prompt) + inquiry.max_new_tokens > longest:
            raise DataError(
                f"the prompt has {len(prepared.prompt)} tokens with its passages, and its answer "
                f"may have {inquiry.max_new_tokens}; the model was made for {longest} together",
                "ask with fewer or shorter messages",
            )

    def _enter(self) -> None:
        """Let prepared prompts into the batch, in their order, while it and memory have room."""
        model = self.answerer.language_model.model
        while self._prepared:
            inquiry, prepared = self._prepared[0]
            tokens = len(prepared.prompt) + inquiry.max_new_tokens
            if not decodes_together(model, tokens):
                self._prepared.popleft()
                self._answer_alone(inquiry, prepared)
                continue
            batch = self._batch_for(prepared, inquiry)
            if self._active and (batch is None or not batch.free_rows or not self._has_room(batch)):
                return
            self._prepared.popleft()
            if batch is None or not self._has_room(batch):
                self._finish(inquiry, self._no_memory(tokens))
            else:
                self._begin(batch, inquiry, prepared)

    def _begin(self, batch: DecodingBatch, inquiry: AnswerRequest, prepared: Prepared) -> None:
        self._number += 1
        tokenizer, stops = self.answerer.language_model.tokenizer, inquiry.stops
        text = StoppedText(tokenizer, stops) if stops else TextStream(tokenizer)
        begun = _begun(prepared)
        self._active[self._number] = _Active(inquiry, begun, text)
        self._limits[self._number] = inquiry.max_new_tokens
        batch.enter(self._number, prepared.prompt)
        _call(inquiry, begun)

    def _has_room(self, batch: DecodingBatch) -> bool:
        """Return whether one more row has memory, beside those that have not written theirs yet."""
        needed = unwritten_bytes(batch.slots, len(self._active) + 1, self._token_bytes)
        return self._budget.claim(self, needed, self.answerer.language_model.device)

    def _no_memory(self, tokens: int) -> NoMemoryError:
        free = self._budget.available(self, self.answerer.language_model.device)
        return NoMemoryError(
            f"a prompt of this length with its answer takes {tokens * self._token_bytes / 1e6:.0f} "
            f"MB of memory while it is answered, and {max(0, free) / 1e6:.0f} MB are left",
            "ask with fewer or shorter messages, or again later",
        )

    def _batch_for(self, prepared: Prepared, inquiry: AnswerRequest) -> DecodingBatch | None:
        """Return the batch, or another once nobody is left in one whose slots are too short or few.

        None until then, or where there is no memory for one row.
        """
        tokens, most = len(prepared.prompt), self.answerer.batch_size
        batch = self._batch
        if batch is not None and batch.holds(tokens, inquiry.max_new_tokens):
            if self._active or batch.slots.rows == most:
                return batch
        elif self._active:
            return None
        self._batch = batch = None  # so that what it held is free
        device = self.answerer.language_model.device
        longest = -(-tokens // _PROMPT_STEP) * _PROMPT_STEP
        whole = longest + self.answerer.prompting.max_new_tokens
        free = self._budget.available(self, device) // max(1, self._token_bytes)
        rows = min(most, (free - longest) // whole)
        if rows >= 1:
            self._batch = DecodingBatch.empty(Slots(rows, longest, whole), device)
        return self._batch

    def _tell(self, row: DecodingRow) -> None:
        """Hand on what a row's newest token brought."""
        active = self._active[row.number]
        for piece in self._pieces(active, row):
            _call(active.inquiry, TextDelta(piece))
        if (stopped := active.stopped) is None and not row.is_done:
            return
        if self._batch is not None and not row.is_done:
            self._batch.drop(row.number)
        self._forget(row.number)
        asked = active.inquiry.asked
        whole = text_of(self.answerer.language_model.tokenizer, row.tokens)
        reply = Reply(
            active.begun, whole if stopped is None else stopped, tuple(row.tokens),
            row.is_cut and stopped is None,
            (row.first_token - asked) * 1000, (row.latest_token - asked) * 1000,
        )  # fmt: skip
        self._finish(active.inquiry, reply)

    def _pieces(self, active: _Active, row: DecodingRow) -> Iterator[str]:
        new = [active.text.feed(token) for token in row.tokens[active.fed :]]
        active.fed = len(row.tokens)
        if row.is_done:
            new.append(active.text.rest())
        return filter(None, new)

    def _answer_alone(self, inquiry: AnswerRequest, prepared: Prepared) -> None:
        tokens = len(prepared.prompt) + inquiry.max_new_tokens
        needed = tokens * self._token_bytes
        if self._batch is not None:
            needed += unwritten_bytes(self._batch.slots, len(self._active), self._token_bytes)
        if not self._budget.claim(self, needed, self.answerer.language_model.device):
            self._finish(inquiry, self._no_memory(tokens))
            return
        begun, entered = _begun(prepared), time.perf_counter()
        _call(inquiry, begun)
        try:
            (made,) = generate(
                self.answerer.language_model,
                [prepared.prompt],
                max_new_tokens=inquiry.max_new_tokens,
                batch_size=1,
                labels=self.answerer.labels,
            )
        except Exception as error:  # noqa: BLE001  told to who asked
            self._finish(inquiry, error)
            return
        waited = (entered - inquiry.asked) * 1000
        made = cut_at_stop(self.answerer.language_model.tokenizer, made, inquiry.stops)
        if made.text:
            _call(inquiry, TextDelta(made.text))
        reply = Reply(
            begun, made.text, made.token_ids, made.is_cut,
            waited + made.first_token_ms, waited + made.latency_ms,
        )  # fmt: skip
        self._finish(inquiry, reply)

    def _drop(self, number: int) -> None:
        if self._batch is not None:
            self._batch.drop(number)
        self._finish(self._forget(number).inquiry)

    def _forget(self, number: int) -> _Active:
        self._limits.pop(number)
        return self._active.pop(number)

    def _fail_all(self, error: Exception) -> None:
        """Tell everyone who was let in that it broke; the next question gets a new batch."""
        self._batch = None
        failed = [inquiry for inquiry, _ in self._prepared]
        self._prepared.clear()
        failed += [self._forget(number).inquiry for number in list(self._active)]
        for inquiry in failed:
            self._finish(inquiry, error)
        self._embedding.fail_all(error)

    def _finish(self, inquiry: _Request, event: Event | None = None) -> None:
        """Count a question as answered and tell its listener how it ended, if it still listens."""
        with self._condition:
            self._unanswered -= 1
        if event is not None:
            _call(inquiry, event)


def _begun(prepared: Prepared) -> Begun:
    return Begun(prepared.passages, prompt_sha256(prepared.prompt), len(prepared.prompt))


def _call(inquiry: _Request, event: Event) -> None:
    if inquiry.left:
        return
    try:
        inquiry.listener(event)
    except Exception:  # one broken listener must not cost the others their answers
        LOGGER.exception("a listener failed")
        inquiry.leave()
