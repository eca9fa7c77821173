"""Greedy answers: the tokens of `model.generate` one prompt at a time, of many prompts together."""

import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from tasks.generation.batching_check import decodes_together
from tasks.generation.continuous_batching import ONE_AT_A_TIME, DecodingRow, decode
from tasks.generation.label_trie import LabelTrie, likeliest_labelled
from tasks.generation.streaming import text_of
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import end_of_turn
from tasks.stage.errors import DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Generation:
    """What a model answered: token ids without the end token, text, and how long it took.

    Both times run from when the row's prompt first went into the model: to its first token (or the
    end token, where the answer is empty) and to its last. `is_cut` says that the answer was ended
    by the number of new tokens, not by the model. Identical prompts share one answer. Where labels
    were all that could be said, `probability` is the label's among them, else None.
    """

    token_ids: tuple[int, ...]
    text: str
    first_token_ms: float
    latency_ms: float
    is_cut: bool
    probability: float | None = None


def generate(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
    ignore_stops: bool = False,
    labels: LabelTrie | None = None,
) -> list[Generation]:
    """Return the greedy answers to prompts of token ids, in the prompts' order.

    The tokens are those of `model.generate(do_sample=False)` one prompt at a time, up to ties
    within float rounding. At most `batch_size` rows are held in memory, and one prompt; beginnings
    that prompts share are computed once. A model with which that is not exact answers one prompt
    at a time, and the log says why (`decodability`). `progress` is told how many prompts are done
    and how many there are. With `ignore_stops` every answer goes on to `max_new_tokens`, so that
    the speed of models can be compared over the same work. Where there are `labels`, an answer is
    one of them: the likeliest token of those that go on with one is taken each time.

    Raises:
        DataError: a prompt has no tokens.
        ConfigError: the model's scores are not finite.
    """
    keys = [tuple(prompt) for prompt in prompts]
    copies: dict[tuple[int, ...], list[int]] = {}
    for place, key in enumerate(keys):
        copies.setdefault(key, []).append(place)
    distinct = list(copies)
    answers: dict[tuple[int, ...], Generation] = {}
    done = 0
    stops = frozenset[int]() if ignore_stops else stop_tokens(language_model)
    for row in _rows(language_model, distinct, stops, max_new_tokens, batch_size, labels):
        if row.is_done:
            key = distinct[row.number]
            answers[key] = _generation(language_model, row, is_labelled=labels is not None)
            done += len(copies[key])
            if progress is not None:
                progress(done, len(prompts))
    return [answers[key] for key in keys]


def stop_tokens(language_model: LanguageModel) -> frozenset[int]:
    """Return the token ids that end an answer: what the chat template puts after one, what the
    tokenizer names as the end of a sequence, and what the model's generation settings list.
    """
    configured = language_model.model.generation_config.eos_token_id
    stops = configured if isinstance(configured, list) else [configured]
    named = {end_of_turn(language_model.tokenizer), language_model.tokenizer.eos_token_id}
    return frozenset({*named, *stops} - {None})


def list_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a model's own generation settings list what ends a turn, for programs that read these
    alone; where they do already, nothing changes.
    """
    settings = model.generation_config
    listed = settings.eos_token_id
    known = frozenset(listed if isinstance(listed, list) else [listed])
    if end_of_turn(tokenizer) not in known:
        settings.eos_token_id = sorted(stop_tokens(LanguageModel(model, tokenizer, "")))


def _rows(
    language_model: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    stops: Set[int],
    max_new_tokens: int,
    batch_size: int,
    labels: LabelTrie | None = None,
) -> Iterator[DecodingRow]:
    """Yield each row whenever it has a new token, or when it is done."""
    empty = [place for place, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise DataError(
            f"prompt {empty[0]} of {len(prompts)} has no tokens, so there is nothing to go on from",
            "leave it out, or use a prompt template that renders to some text",
        )
    longest = max(map(len, prompts), default=0) + max_new_tokens
    if prompts and decodes_together(language_model.model, longest):
        yield from decode(
            language_model,
            prompts,
            stops,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            labels=labels,
        )
        return
    for number, prompt in enumerate(prompts):
        yield _answered_alone(language_model, number, prompt, stops, max_new_tokens, labels)


def _generation(
    language_model: LanguageModel, row: DecodingRow, *, is_labelled: bool
) -> Generation:
    return Generation(
        tuple(row.tokens),
        text_of(language_model.tokenizer, row.tokens),
        (row.first_token - row.went_in) * 1000,
        (row.latest_token - row.went_in) * 1000,
        row.is_cut,
        math.exp(row.log_probability) if is_labelled else None,
    )


def _answered_alone(
    language_model: LanguageModel,
    number: int,
    prompt: tuple[int, ...],
    stops: Set[int],
    max_new_tokens: int,
    labels: LabelTrie | None,
) -> DecodingRow:
    """Return the row that transformers' own `generate` makes of a prompt."""
    row = DecodingRow(number, prompt, time.perf_counter())
    taking = _Taking(row, stops, max_new_tokens)
    ids = torch.tensor([prompt], device=language_model.device)
    answer: Any = language_model.model.generate
    more: dict[str, Any] = {}
    if labels is not None:
        taking = _TakingLabels(row, stops, max_new_tokens, labels)
        more = {"logits_processor": [taking.hear], "repetition_penalty": 1.0}
    with ONE_AT_A_TIME:
        answer(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(stops),
            pad_token_id=language_model.tokenizer.pad_token_id,
            streamer=taking,
            **more,
        )
    row.is_done = True
    return row


class _Taking(BaseStreamer):
    """Hands each token that `generate` makes to a row."""

    def __init__(self, row: DecodingRow, stops: Set[int], max_new_tokens: int) -> None:
        self.row, self.stops, self.max_new_tokens = row, stops, max_new_tokens
        self.is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take a token; the first call brings the prompt."""
        if not self.is_prompt:
            self.take(int(value))
        self.is_prompt = False

    def take(self, token: int) -> None:
        """Take a token of the answer."""
        self.row.take(token, self.stops, self.max_new_tokens)

    def end(self) -> None:
        """Do nothing: nothing is left to do."""


class _TakingLabels(_Taking):
    """Lets `generate` choose a label's tokens alone, and hands them to a row.

    What comes after the row is done, since `generate` goes on until it meets a stop, is left out.
    """

    def __init__(
        self, row: DecodingRow, stops: Set[int], max_new_tokens: int, labels: LabelTrie
    ) -> None:
        super().__init__(row, stops, max_new_tokens)
        self.labels, self.likely = labels, 0.0

    def hear(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores by which the likeliest token that goes on with a label is chosen."""
        if self.row.is_done:
            return torch.full_like(scores, float("-inf")).index_fill_(
                1, torch.tensor([min(self.stops)], device=scores.device), 0.0
            )
        [(token, self.likely)] = likeliest_labelled(scores, [self.row.tokens], self.labels)
        chosen = torch.tensor([token], device=scores.device)
        return torch.full_like(scores, float("-inf")).index_fill_(1, chosen, 0.0)

    def take(self, token: int) -> None:
        """Take a token of the label, and all of the label where it is certain."""
        if not self.row.is_done:
            self.row.take_label(token, self.likely, self.labels, self.stops, self.max_new_tokens)
