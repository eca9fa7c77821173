"""Rows decoded together, token by token: those that are done leave, and new prompts enter."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from tasks.generation.kv_cache import (
    SLOT_ATTENTION,
    Pass,
    PromptChunk,
    Slots,
    make_pass,
    register_slot_attention,
)
from tasks.generation.label_trie import LabelTrie, likeliest_labelled
from tasks.models.loading import LanguageModel
from tasks.sequences.packing import depth_first, shared_length
from tasks.stage.errors import ConfigError

# Tokens that go through the model at once: enough to keep its products busy, few enough that rows
# which are being decoded hardly wait for prompts.
_PASS_TOKENS = {"cpu": 512, "cuda": 4096}
# A model is told how to attend for the length of a pass: no other thread may use it meanwhile.
ONE_AT_A_TIME = threading.Lock()


@dataclass
class DecodingRow:
    """One prompt's answer as it grows; `number` is the prompt's place among those asked.

    `tokens` hold no stop token. Times are those of `time.perf_counter`, in seconds.
    `log_probability` is that of the tokens among those that labels allowed, 0 without labels.
    """

    number: int
    prompt: Sequence[int]
    went_in: float
    tokens: list[int] = field(default_factory=list)
    first_token: float = 0.0
    latest_token: float = 0.0
    is_cut: bool = False
    is_done: bool = False
    log_probability: float = 0.0

    def take(self, token: int, stops: Set[int], max_new_tokens: int) -> None:
        """Take the next token in."""
        self.latest_token = time.perf_counter()
        self.first_token = self.first_token or self.latest_token
        if token in stops:
            self.is_done = True
            return
        self.tokens.append(token)
        self.is_done = self.is_cut = len(self.tokens) == max_new_tokens

    def take_label(
        self, token: int, likely: float, labels: LabelTrie, stops: Set[int], max_new_tokens: int
    ) -> None:
        """Take the next token of a label in, and all that follows where one label is left."""
        self.log_probability += likely
        self.take(token, stops, max_new_tokens)
        rest = None if token in stops else labels.rest(self.tokens)
        if rest is None:
            return
        said = [one for one in rest if one not in stops]
        room = max_new_tokens - len(self.tokens)
        self.tokens += said[:room]
        self.is_done, self.is_cut = True, len(said) > room


@dataclass
class DecodingBatch:
    """Rows that are decoded, the prompts that wait, and what is known of the latest prompt.

    Row n is in slot n. `path` are the tokens whose keys the slots hold as the latest prompt's;
    `entering` is the row of a prompt that is not whole yet. `prompts` holds those that wait or are
    being answered, by number.
    """

    prompts: dict[int, tuple[int, ...]]
    slots: Slots
    waiting: deque[int]
    pass_tokens: int
    device: torch.device
    rows: list[DecodingRow] = field(default_factory=list)
    path: tuple[int, ...] = ()
    entering: DecodingRow | None = None

    @classmethod
    def start(
        cls,
        prompts: Sequence[tuple[int, ...]],
        *,
        max_new_tokens: int,
        batch_size: int,
        device: torch.device,
    ) -> "DecodingBatch":
        """Return a batch that all prompts wait for."""
        longest = max(map(len, prompts), default=0)
        slots = Slots(min(batch_size, len(prompts)), longest, longest + max_new_tokens)
        batch = cls.empty(slots, device)
        batch.prompts |= enumerate(prompts)
        batch.waiting.extend(depth_first(prompts))
        return batch

    @classmethod
    def empty(cls, slots: Slots, device: torch.device) -> "DecodingBatch":
        """Return a batch with room for what the slots hold, which prompts are yet to enter."""
        tokens = _PASS_TOKENS.get(device.type, _PASS_TOKENS["cpu"])
        return cls({}, slots, deque(), tokens, device)

    @property
    def free_rows(self) -> int:
        """Return how many more prompts would get a slot as soon as their turn comes."""
        return self.slots.rows - len(self.rows) - len(self.waiting)

    def holds(self, prompt_tokens: int, max_new_tokens: int) -> bool:
        """Return whether the slots are long enough for such a prompt with its answer."""
        whole = prompt_tokens + max_new_tokens
        return prompt_tokens <= self.slots.prompt_tokens and whole <= self.slots.row_tokens

    def enter(self, number: int, prompt: tuple[int, ...]) -> None:
        """Let one more prompt wait; the slots must hold it."""
        self.prompts[number] = prompt
        self.waiting.append(number)

    def drop(self, number: int) -> None:
        """Stop answering a prompt, whether it waits, enters or is being answered."""
        for row in self.rows:
            row.is_done = row.is_done or row.number == number
        self.let_go()
        if number in self.waiting:
            self.waiting.remove(number)
            self.prompts.pop(number)
        if self.entering is not None and self.entering.number == number:
            self.entering = None

    def next_pass(self) -> Pass:
        """Return the newest token of each row, and of the waiting prompts what there is room for.

        Prompts that are whole with it become rows, in slots behind those of the others.
        """
        decoded = len(self.rows)
        ids = [row.tokens[-1] for row in self.rows]
        positions = [len(row.prompt) + len(row.tokens) - 1 for row in self.rows]
        pieces: list[PromptChunk] = []
        room = max(1, self.pass_tokens - decoded)
        while room and self.waiting and len(self.rows) < self.slots.rows:
            prompt = self.prompts[self.waiting[0]]
            # Of a prompt that is known as a whole, the last token is computed again: it answers.
            start = min(shared_length(self.path, prompt), len(prompt) - 1)
            stop = min(start + room, len(prompt))
            entering = self.entering or DecodingRow(self.waiting[0], prompt, time.perf_counter())
            whole = stop == len(prompt)
            slot = len(self.rows) if whole else None
            pieces.append(PromptChunk(len(ids), len(ids) + stop - start, start, slot))
            ids += prompt[start:stop]
            positions += range(start, stop)
            self.path = prompt[:stop]
            self.entering = None if whole else entering
            if whole:
                self.rows.append(entering)
                self.waiting.popleft()
            room -= stop - start
        return make_pass(ids, positions, decoded, pieces, self.slots, self.device)

    def let_go(self) -> None:
        """Drop the rows that are done; the last row takes the slot of one that leaves."""
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].is_done:
                self.prompts.pop(self.rows[slot].number)
                last = self.rows.pop()
                if slot < len(self.rows):
                    self.slots.move(len(self.rows), slot, len(last.prompt) + len(last.tokens))
                    self.rows[slot] = last


def decode(
    language_model: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    stops: Set[int],
    *,
    max_new_tokens: int,
    batch_size: int,
    labels: LabelTrie | None = None,
) -> Iterator[DecodingRow]:
    """Yield each row whenever it has taken a token in; greedy, at most `batch_size` rows at a time.

    Where there are labels, rows say nothing else.

    Raises:
        ConfigError: the model's scores are not finite.
    """
    batch = DecodingBatch.start(
        prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, device=language_model.device
    )
    limits = dict.fromkeys(batch.prompts, max_new_tokens)
    while batch.waiting or batch.rows:
        yield from advance(language_model, batch, stops, limits, labels)


def advance(
    language_model: LanguageModel,
    batch: DecodingBatch,
    stops: Set[int],
    limits: Mapping[int, int],
    labels: LabelTrie | None = None,
) -> list[DecodingRow]:
    """Return the rows of a batch, each with one more token; those that are done have left it.

    `limits` are the new tokens that each prompt's answer may have, by the prompt's number. Where
    there are labels, rows say nothing else, and one that can end in one way alone is done.

    Raises:
        ConfigError: the model's scores are not finite.
    """
    logits = run_pass(language_model.model, batch.next_pass())
    rows = list(batch.rows)
    if labels is None:
        picked = _likeliest(language_model.model, logits, rows)
        for row, token in zip(rows, picked, strict=True):
            row.take(token, stops, limits[row.number])
    else:
        said = [row.tokens for row in rows]
        for row, (token, likely) in zip(
            rows, likeliest_labelled(logits, said, labels), strict=True
        ):
            row.take_label(token, likely, labels, stops, limits[row.number])
    batch.let_go()
    return rows


@torch.inference_mode()
def run_pass(model: PreTrainedModel, decoding: Pass) -> Tensor:
    """Return the logits (rows, vocabulary) of the next token of each row of a pass."""
    with _attending_by_slots(model):
        logits: Tensor = model(
            input_ids=decoding.input_ids,
            position_ids=decoding.position_ids,
            logits_to_keep=decoding.answering,
            decoding=decoding,
            use_cache=False,
        ).logits
    return logits[0]


@contextmanager
def _attending_by_slots(model: PreTrainedModel) -> Iterator[None]:
    """Yield a model that attends by slots, and as it did before afterwards.

    Its config is told, not `set_attn_implementation`: that goes through all modules, which at every
    pass took a fifth of what a pass spends outside of products. Whether a model heeds it, its trial
    shows (`decodability`).
    """
    config = model.config.get_text_config()
    with ONE_AT_A_TIME:
        own = config._attn_implementation
        register_slot_attention()
        config._attn_implementation = SLOT_ATTENTION
        try:
            yield
        finally:
            config._attn_implementation = own


@torch.inference_mode()
def _likeliest(model: PreTrainedModel, logits: Tensor, rows: Sequence[DecodingRow]) -> list[int]:
    """Return the likeliest next token of each row."""
    penalty = model.generation_config.repetition_penalty
    if penalty is not None and penalty != 1.0:
        penalize = RepetitionPenaltyLogitsProcessor(penalty)
        scores = [
            penalize(torch.tensor([[*row.prompt, *row.tokens]], device=logits.device), own[None])
            for row, own in zip(rows, logits.float(), strict=True)
        ]
        logits = torch.cat(scores) if scores else logits
    best, tokens = logits.max(-1)
    if not bool(best.isfinite().all()):
        raise ConfigError(
            f"{type(model).__name__} gives scores that are not finite; expected numbers, since the "
            "likeliest token of none can be told",
            "look for weights that are not finite, or compute in a wider dtype",
        )
    picked: list[int] = tokens.tolist()
    return picked
