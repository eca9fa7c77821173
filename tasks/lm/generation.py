"""Greedy generation in batches: sorted by length, finished rows leave, the cache never moves."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tasks.lm.models import LanguageModel

Progress = Callable[[int, int], None]
_GROWTH = 64  # positions a full cache grows by


@dataclass(frozen=True)
class Generation:
    """What a model answered: token ids without the end token, text, and how long it took.

    `latency_ms` runs from the start of the row's batch to the row's last token.
    """

    token_ids: tuple[int, ...]
    text: str
    latency_ms: float


def generate(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Generation]:
    """The greedy answers to prompts of token ids, in the prompts' order.

    The tokens are those of `model.generate(do_sample=False)` one prompt at a time, up to ties
    within float rounding. `progress` is told how many prompts are done and how many there are.
    """
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Generation] = {}
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        batch = [prompts[index] for index in chosen]
        for row, generation in _answer_batch(language_model, batch, max_new_tokens):
            answers[chosen[row]] = generation
        if progress is not None:
            progress(len(answers), len(prompts))
    return [answers[index] for index in range(len(prompts))]


def stop_tokens(language_model: LanguageModel) -> frozenset[int]:
    """The token ids that end an answer."""
    configured = language_model.model.generation_config.eos_token_id
    stops = configured if isinstance(configured, list) else [configured]
    return frozenset({language_model.tokenizer.eos_token_id, *stops} - {None})


def _answer_batch(
    language_model: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> Iterator[tuple[int, Generation]]:
    """Row number and answer of each prompt, in the order in which they finish."""
    started = time.perf_counter()
    stops = stop_tokens(language_model)
    rows: list[list[int]] = [[] for _ in prompts]
    for row, token in _decode(language_model, prompts, max_new_tokens, stops):
        if token not in stops:
            rows[row].append(token)
        if token in stops or len(rows[row]) == max_new_tokens:
            text = str(language_model.tokenizer.decode(rows[row], skip_special_tokens=True))
            milliseconds = (time.perf_counter() - started) * 1000
            yield row, Generation(tuple(rows[row]), text.strip(), milliseconds)


@torch.inference_mode()
def _decode(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: frozenset[int],
) -> Iterator[tuple[int, int]]:
    """Row number and next token, step by step; a row that stopped leaves the batch."""
    state = _State.start(language_model, prompts)
    for step in range(max_new_tokens):
        tokens = state.next_tokens(language_model)
        picked = tokens.tolist()
        yield from zip(state.rows, picked, strict=True)
        kept = [slot for slot, token in enumerate(picked) if token not in stops]
        if not kept or step == max_new_tokens - 1:
            return
        state.advance(tokens, kept)


@dataclass
class _State:
    """A batch between two steps: what goes in next, and the cache of what went in before."""

    rows: list[int]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    cache: DynamicCache = field(repr=False)

    @classmethod
    def start(cls, language_model: LanguageModel, prompts: Sequence[Sequence[int]]) -> "_State":
        width = max(len(prompt) for prompt in prompts)
        padding = language_model.tokenizer.pad_token_id or 0
        ids = torch.full((len(prompts), width), padding, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        device = language_model.device
        cache = growing_cache(language_model)
        return cls(
            list(range(len(prompts))), ids.to(device), mask.to(device), positions.to(device), cache
        )

    def next_tokens(self, language_model: LanguageModel) -> Tensor:
        """The likeliest next token of each row, shape (rows,)."""
        logits = language_model.model(
            input_ids=self.input_ids,
            attention_mask=self.attention_mask,
            position_ids=self.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        best: Tensor = logits[:, -1].argmax(-1)
        return best

    def advance(self, tokens: Tensor, kept: Sequence[int]) -> None:
        """Take the new tokens in; only the slots in `kept` go on."""
        if len(kept) < len(self.rows):
            slots = torch.tensor(kept, device=tokens.device)
            tokens = tokens[slots]
            self.rows = [self.rows[slot] for slot in kept]
            self.attention_mask = self.attention_mask[slots]
            self.position_ids = self.position_ids[slots]
            self.cache.batch_select_indices(slots)
        ones = self.attention_mask.new_ones((len(self.rows), 1))
        self.attention_mask = torch.cat([self.attention_mask, ones], dim=-1)
        self.position_ids = self.position_ids[:, -1:] + 1
        self.input_ids = tokens[:, None]


class GrowingLayer(DynamicLayer):
    """A cache layer that writes into spare room instead of copying itself at every token."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take room for the first tokens; shapes (rows, heads, positions, width)."""
        super().lazy_initialization(key_states, value_states)
        self._rooms = [_room_for(states, 0) for states in (key_states, value_states)]
        self._used = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values so far, the new ones included; shapes (rows, heads, positions, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self._used = self._used, self._used + key_states.shape[-2]
        for number, states in enumerate((key_states, value_states)):
            if self._rooms[number].shape[-2] < self._used:
                wider = _room_for(states, start)
                wider[..., :start, :] = self._rooms[number][..., :start, :]
                self._rooms[number] = wider
            self._rooms[number][..., start : self._used, :] = states
        self.keys, self.values = (room[..., : self._used, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        self._rooms = [room[indices] for room in self._rooms]
        self.keys, self.values = (room[..., : self._used, :] for room in self._rooms)


def _room_for(states: Tensor, used: int) -> Tensor:
    """Space for what is used, these states and some more."""
    *outer, positions, width = states.shape
    return states.new_empty((*outer, used + positions + _GROWTH, width))


def growing_cache(language_model: LanguageModel) -> DynamicCache:
    """An empty cache; layers with a sliding window keep transformers' own."""
    cache = DynamicCache(config=language_model.model.config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache
