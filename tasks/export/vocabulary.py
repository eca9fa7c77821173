"""A tokenizer as a GGUF file holds it: llama.cpp then makes of a text the very ids that we make."""

import json
from dataclasses import dataclass
from typing import Any

from gguf import TokenType
from transformers import PreTrainedTokenizerBase

from tasks.stage.errors import ConfigError

MODEL = "gpt2"  # llama.cpp's name for byte-level BPE
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
# llama.cpp's names of ways to cut a text before merging (llama-vocab.cpp), whether whole words of
# the vocabulary are taken without merging, and how tokenizers writes them down.
_WAYS: dict[str, tuple[bool, list[dict[str, Any]]]] = {
    "gpt-2": (False, [_BYTE_LEVEL]),
    "smollm": (False, [_DIGITS, _BYTE_LEVEL]),
}
_REGEXES = {"llama-bpe": True, "qwen2": False}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their kinds, merges in order, and llama.cpp's name of how text is cut."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    way: str
    adds_bos: bool


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, filled up to `size`, the rows of the model's embedding.

    Raises:
        ConfigError: llama.cpp has no tokenizer that gives the same ids.
    """
    if not tokenizer.is_fast:
        raise _unsupported(f"a {type(tokenizer).__name__}, which has no tokenizer.json")
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    way = _way(core)
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for number in range(size):
        kind = TokenType.NORMAL if number in names else TokenType.UNUSED
        if number in added:
            kind = TokenType.CONTROL if added[number].special else TokenType.USER_DEFINED
        tokens.append(names.get(number, f"[PAD{number}]"))
        kinds.append(int(kind))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in core["model"]["merges"]]
    begun = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return Vocabulary(tuple(tokens), tuple(kinds), tuple(merges), way, begun)


def _way(core: dict[str, Any]) -> str:
    """llama.cpp's name of the way in which a tokenizer cuts text."""
    model = core["model"]
    if model["type"] != "BPE" or (core["decoder"] or {}).get("type") != "ByteLevel":
        raise _unsupported(f"{model['type']} over {(core['decoder'] or {}).get('type')}")
    odd = [
        name
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        if model.get(name)
    ]
    if core["normalizer"] is not None or odd:
        raise _unsupported(f"BPE with {', '.join(odd) or 'a normalizer'}")
    steps = core["pre_tokenizer"] or {}
    found = [_bare(step) for step in steps.get("pretokenizers", [steps])]
    whole_words = bool(model.get("ignore_merges"))
    for name, (ignores_merges, expected) in (_WAYS | _split_ways()).items():
        if found == expected and whole_words == ignores_merges:
            return name
    kinds = ", ".join(str(step.get("type")) for step in found)
    raise _unsupported(f"byte-level BPE cut by {kinds} in another way")


def _split_ways() -> dict[str, tuple[bool, list[dict[str, Any]]]]:
    """The ways that are one regular expression, as transformers knows them by llama.cpp's names."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    def steps(name: str) -> list[dict[str, Any]]:
        pattern = {"Regex": GGUF_PRE_TOKENIZER_SPLITS[name]}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        return [split, _BYTE_LEVEL | {"use_regex": False}]

    return {name: (whole_words, steps(name)) for name, whole_words in _REGEXES.items()}


def _bare(step: dict[str, Any]) -> dict[str, Any]:
    """A step without what changes offsets alone."""
    return {name: value for name, value in step.items() if name != "trim_offsets"}


def _unsupported(found: str) -> ConfigError:
    known = ", ".join([*_WAYS, *_REGEXES])
    return ConfigError(
        f"the model's tokenizer is {found}; GGUF is written for byte-level BPE cut as {known}, "
        "because with another one llama.cpp would read other tokens than the model learned",
        "export with --format safetensors, and convert that with llama.cpp's own converter",
    )
