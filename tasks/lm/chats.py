"""Chats as token ids: many at once, every text encoded once, special tokens only the template's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Marks stand for contents while the chat template is rendered; no special token can hold one.
_MARK = "\ue000{}\ue001"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat, its text in pieces that are encoded apart."""

    role: str
    texts: tuple[str, ...]


def encode_chats(
    tokenizer: "PreTrainedTokenizerBase", chats: Sequence[Sequence[Turn]]
) -> list[list[int]]:
    """The token ids of each chat, with the generation prompt at its end.

    The tokenizer's chat template is rendered once for each sequence of roles, around marks; the
    texts are encoded with special tokens switched off, each distinct one once, and set in. The ids
    are those of the whole rendered text wherever the tokenizer splits between white space and the
    letter after it, as byte-level ones do.

    Raises:
        ConfigError: the chat template leaves out a turn, or changes it.
    """
    roles = {tuple(turn.role for turn in chat) for chat in chats}
    shells = {kind: _shell(tokenizer, kind) for kind in roles}
    texts = list(dict.fromkeys(text for chat in chats for turn in chat for text in turn.texts))
    encoded = dict(zip(texts, encode_texts(tokenizer, texts), strict=True))
    found = []
    for chat in chats:
        first, *rest = shells[tuple(turn.role for turn in chat)]
        ids = list(first)
        for turn, after in zip(chat, rest, strict=True):
            for text in turn.texts:
                ids += encoded[text]
            ids += after
        found.append(ids)
    return found


def encode_answers(tokenizer: "PreTrainedTokenizerBase", answers: Sequence[str]) -> list[list[int]]:
    """The token ids of each answer with the end-of-turn token, which is learned as well."""
    end = tokenizer.eos_token_id
    return [[*ids, end] for ids in encode_texts(tokenizer, answers)]


def encode_texts(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text alone; text that spells a special token stays text."""
    if not texts:
        return []
    if not tokenizer.is_fast:
        ids: list[list[int]] = tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids
    backend = tokenizer.backend_tokenizer
    kept, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    finally:
        backend.encode_special_tokens = kept
    return [item.ids for item in encoded]


def _shell(tokenizer: "PreTrainedTokenizerBase", roles: Sequence[str]) -> list[list[int]]:
    """The token ids around the contents of a chat with these roles: one list more than roles."""
    marks = [_MARK.format(number) for number in range(len(roles))]
    chat = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    rest = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    pieces = []
    for role, mark in zip(roles, marks, strict=True):
        before, found, rest = rest.partition(mark)
        if not found:
            raise ConfigError(
                f"the chat template leaves out or changes the {role} turn of a chat with the roles "
                f"{', '.join(roles)}",
                "use a base whose chat template renders system, user and assistant turns",
            )
        pieces.append(before)
    return [tokenizer(piece, add_special_tokens=False).input_ids for piece in [*pieces, rest]]
