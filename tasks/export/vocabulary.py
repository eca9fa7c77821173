"""Tokenizers as llama.cpp has them, so that it makes of a chat the very ids that we make.

Byte-level BPE is known by how it cuts text. BPE that was converted from SentencePiece is written as
such: by scores, which must say what its merges say.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import Turn, encode_chats
from tasks.stage.errors import ConfigError

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # llama.cpp's names for kinds of tokenizers

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}

_DIGITS = {"type": "Digits", "individual_digits": True}

# llama.cpp's names of ways to cut a text before merging (llama-vocab.cpp), whether whole words of
# the vocabulary are taken without merging, and how tokenizers writes them down.
_WAYS: dict[str, tuple[bool, list[dict[str, Any]]]] = {
    "gpt-2": (False, [_BYTE_LEVEL]),
    "smollm": (False, [_DIGITS, _BYTE_LEVEL]),
}

_REGEXES = {"llama-bpe": True, "qwen2": False, "tekken": True, "dbrx": False, "gpt-4o": False}

_SPACE, _BYTES = "▁", tuple(f"<0x{byte:02X}>" for byte in range(256))

_TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}

_PREPEND = {
    "type": "Sequence",
    "normalizers": [{"type": "Prepend", "prepend": _SPACE}, _TO_SPACE],
}

# Takes no effect behind _TO_SPACE, which leaves it nothing to cut at.
_SPLIT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}

# llama.cpp lets all special tokens but the last three take the white space after them, in models
# whose name holds one of the first two (llama-vocab.cpp).
_STRIPPING_NAMES, _KEEPING = ("phi-3", "phi3"), ("<unk>", "<s>", "<|endoftext|>")

_PROBES = (
    (Turn("user", ("a",)),),
    (Turn("user", ("a",)), Turn("assistant", ("b",)), Turn("user", ("c",))),
)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their kinds, and what merges them.

    `way` is llama.cpp's name of how text is cut. Byte-level BPE has merges in order, SentencePiece
    a score for each token. `adds_space`: one is put before each text. `strips`: special tokens take
    the white space after them.
    """

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    way: str
    adds_bos: bool
    scores: tuple[float, ...] = ()
    adds_space: bool = False
    strips: bool = False

    def name_of(self, name: str) -> str:
        """Return a model's name, changed where llama.cpp would read of it what isn't so."""
        for told in _STRIPPING_NAMES:
            if (told in name.lower()) and not self.strips:
                name = re.sub(told, "phi 3", name, flags=re.IGNORECASE)
        is_told = any(told in name.lower() for told in _STRIPPING_NAMES)
        return f"{name} phi-3" if self.strips and not is_told else name

    def describe(self, writer: GGUFWriter) -> None:
        """Write the keys of the tokenizer, but for its special tokens and its template."""
        writer.add_tokenizer_model(SENTENCEPIECE if self.scores else BYTE_LEVEL)
        writer.add_tokenizer_pre(self.way)
        writer.add_token_list(self.tokens)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.kinds)
        if not self.scores:
            writer.add_token_merges(self.merges)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_space_prefix(self.adds_space)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer, filled up to `size`, the rows of the model's embedding.

    Raises:
        ConfigError: llama.cpp has no tokenizer that gives the same ids.
    """
    if not tokenizer.is_fast:
        raise _unsupported(f"a {type(tokenizer).__name__}, which has no tokenizer.json")
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    _check_merging(core)
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
    found = Vocabulary(
        tuple(tokens), tuple(kinds), tuple(merges), "default", _adds_bos(tokenizer),
        strips=_strips(core, frozenset(tokens)),
    )  # fmt: skip
    if core["model"].get("byte_fallback"):
        return _as_sentencepiece(found, core, tokenizer)
    return replace(found, way=_way(core))


def _check_merging(core: dict[str, Any]) -> None:
    model, decoder = core["model"], (core["decoder"] or {}).get("type")
    if model["type"] != "BPE" or (decoder != "ByteLevel" and not model.get("byte_fallback")):
        raise _unsupported(f"{model['type']} over {decoder}")
    named = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    odd = [name for name in named if model.get(name)]
    if odd:
        raise _unsupported(f"BPE with {', '.join(odd)}")


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a text begins with a token that chats begin with too.

    llama.cpp puts it before whatever it is asked, once.
    """
    first = tokenizer("a").input_ids[0]
    if tokenizer.bos_token_id is None or first != tokenizer.bos_token_id:
        return False
    return all(chat[0] == first for chat in encode_chats(tokenizer, _PROBES))


def _strips(core: dict[str, Any], tokens: frozenset[str]) -> bool:
    """Return whether special tokens take the white space after them, as llama.cpp knows of Phi-3.

    Raises:
        ConfigError: some do, but not those.
    """
    added = core["added_tokens"]
    if any(token["lstrip"] or token["single_word"] for token in added):
        raise _unsupported("one whose special tokens take what is before them, or stand alone")
    stripping = {token["content"] for token in added if token["rstrip"]}
    if not stripping:
        return False
    expected = {token["content"] for token in added} - {*_KEEPING}
    if stripping != expected or not tokens.issuperset((*_KEEPING, "</s>")):
        raise _unsupported("one where other special tokens than Phi-3's take white space")
    return True


def _way(core: dict[str, Any]) -> str:
    """Return llama.cpp's name of the way in which a byte-level tokenizer cuts text.

    Text in Unicode's NFC stays as it is under the one normalizer that is let through.
    """
    normalizer = core["normalizer"]
    if normalizer not in (None, {"type": "NFC"}):
        raise _unsupported(f"byte-level BPE with a normalizer ({normalizer['type']})")
    steps = core["pre_tokenizer"] or {}
    found = [_bare(step) for step in steps.get("pretokenizers", [steps])]
    whole_words = bool(core["model"].get("ignore_merges"))
    for name, (ignores_merges, expected) in (_WAYS | _split_ways()).items():
        if found == expected and whole_words == ignores_merges:
            return name
    kinds = ", ".join(str(step.get("type")) for step in found)
    raise _unsupported(f"byte-level BPE cut by {kinds} in another way")


def _split_ways() -> dict[str, tuple[bool, list[dict[str, Any]]]]:
    """Return the ways that are one regular expression, as transformers knows them by llama.cpp's
    names.
    """
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    def steps(name: str) -> list[dict[str, Any]]:
        pattern = {"Regex": GGUF_PRE_TOKENIZER_SPLITS[name]}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        return [split, _BYTE_LEVEL | {"use_regex": False}]

    return {name: (whole_words, steps(name)) for name, whole_words in _REGEXES.items()}


def _bare(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step without what changes offsets alone."""
    return {name: value for name, value in step.items() if name != "trim_offsets"}


def _as_sentencepiece(
    found: Vocabulary, core: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> Vocabulary:
    """Return a vocabulary with scores instead of merges.

    Raises:
        ConfigError: SentencePiece's rules would give other ids.
    """
    if not set(_BYTES) <= set(found.tokens):
        raise _unsupported("BPE with some of the 256 bytes alone to fall back on")
    unknown = core["model"]["unk_token"]
    kinds = list(found.kinds)
    for number, token in enumerate(found.tokens):
        if token in _BYTES:
            kinds[number] = int(TokenType.BYTE)
        if token == unknown:
            kinds[number] = int(TokenType.UNKNOWN)
    adds_space = _adds_space(core, tokenizer)
    scores = _scores(core, found.tokens, kinds)
    never = min(scores)
    # A run of spaces that is a token of its own is found in the text as it was written.
    is_run = [
        kind == TokenType.USER_DEFINED and not token.strip(_SPACE) and score > never
        for token, kind, score in zip(found.tokens, kinds, scores, strict=True)
    ]
    tokens = tuple(
        token.replace(_SPACE, " ") if run else token
        for token, run in zip(found.tokens, is_run, strict=True)
    )
    return replace(
        found, tokens=tokens, kinds=tuple(kinds), merges=(), scores=scores, adds_space=adds_space
    )


def _adds_space(core: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether llama.cpp is to put a space before each part of a text.

    It does so for all parts between special tokens, or for none.

    Raises:
        ConfigError: chats have one elsewhere.
    """
    normalizer, cut = core["normalizer"], _bare(core["pre_tokenizer"] or {})
    if normalizer == _PREPEND and not cut:
        return True
    if normalizer == _TO_SPACE and cut in ({}, _SPLIT):
        return False
    is_metaspace = cut.get("type") == "Metaspace" and cut.get("replacement") == _SPACE
    if normalizer is not None or not is_metaspace or cut.get("split"):
        raise _unsupported("BPE with byte fallback, cut in another way than SentencePiece's")
    scheme = cut["prepend_scheme"]
    if scheme == "always" and any(_puts_space_after_special(core, tokenizer)):
        raise _unsupported("one that puts no space before a text that begins with one")
    begins = {chat[0] for chat in encode_chats(tokenizer, _PROBES)}
    if scheme == "first" and not begins <= tokenizer.added_tokens_decoder.keys():
        raise _unsupported(
            "one that puts a space before the whole text alone, and no token of its own begins a "
            "chat"
        )
    return bool(scheme == "always")


def _puts_space_after_special(
    core: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> Iterator[bool]:
    """Yield of each chat whether its template writes a space behind a token of its own."""
    for chat in _PROBES:
        messages = [{"role": turn.role, "content": "".join(turn.texts)} for turn in chat]
        text = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
        yield any(f"{token['content']} " in text for token in core["added_tokens"])


def _scores(core: dict[str, Any], tokens: Sequence[str], kinds: Sequence[int]) -> tuple[float, ...]:
    """Return how early each token is merged, as scores: the higher, the earlier.

    Raises:
        ConfigError: scores can't say what the merges say.
    """
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
             for pair in core["model"]["merges"]]  # fmt: skip
    made = [token for token, _ in groupby(left + right for left, right in pairs)]
    known, listed = frozenset(tokens), frozenset(pairs)
    missing = next(
        (
            token
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == TokenType.NORMAL
            for at in range(1, len(token))
            if token[:at] in known and token[at:] in known
            if (token[:at], token[at:]) not in listed
        ),
        None,
    )
    if len(set(made)) != len(made) or missing is not None:
        raise _unsupported(
            "BPE with byte fallback whose merges are not SentencePiece's"
            + (f", as of {missing!r}" if missing is not None else "")
        )
    places = {token: place for place, token in enumerate(made)}
    return tuple(-float(places.get(token, len(made))) for token in tokens)


def _unsupported(found: str) -> ConfigError:
    known = ", ".join([*_WAYS, *_REGEXES])
    return ConfigError(
        f"the model's tokenizer is {found}; GGUF is written for byte-level BPE cut as {known}, and "
        "for SentencePiece's BPE, because with another one llama.cpp would read other tokens than "
        "the model learned",
        "export with --format safetensors, and convert that with llama.cpp's own converter",
    )
