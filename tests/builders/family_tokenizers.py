"""Tokenizers of the kinds that public families have, trained on a few sentences."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

CORPUS = [
    "What does json.dumps do? It returns a string of the object in JSON.",
    "The sky is blue because air scatters short waves more than long ones.",
    "Answer in few words. If you cannot know, say: I don't know. Question: which one is it?",
    "def read(path):\n    return path.read_text()\n\n\nprint(read(Path('a.txt')), 1234567890)",
    "하늘은 왜 파란가요? 공기가 짧은 파장을 더 많이 흩뜨리기 때문입니다. 한국어 질문과 대답.",
    'Summarise: (1) one; (2) two; (3) three! "quoted" text, it\'s 50% & more @ home #7 [ok] {x}',
] * 3
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_VOCABULARY = 480
_SPACE = "▁"


def _specials(names: Sequence[str | AddedToken]) -> list[AddedToken]:
    return [
        name if isinstance(name, AddedToken) else AddedToken(name, special=True, normalized=False)
        for name in names
    ]


def byte_level(
    names: Sequence[str | AddedToken],
    *,
    split: str | None = None,
    digits: bool = False,
    whole_words: bool = False,
    nfc: bool = False,
) -> Tokenizer:
    """Byte-level BPE as GPT-2's, or cut by a regular expression as Llama 3's and Qwen's."""
    core = Tokenizer(models.BPE(ignore_merges=whole_words))
    if nfc:
        core.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if split is not None:
        steps.append(pre_tokenizers.Split(Regex(split), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None))
    core.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    core.add_tokens(_specials(names))
    return core


def sentencepiece(
    names: Sequence[str | AddedToken],
    *,
    spaces: Literal["prepend", "first", "kept"],
    runs: int = 1,
) -> Tokenizer:
    """BPE over characters with byte fallback, as converted from SentencePiece.

    `spaces`: a space is put before each part of a text (Llama 2's older form, Phi-3), before the
    text alone (its newer form, Mistral), or none is (Gemma, which has `runs` of spaces as tokens).
    """
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    made = json.loads(core.to_str())
    # What was special to the trainer is a piece like others, but for the first three.
    made["added_tokens"] = [item for item in made["added_tokens"] if item["id"] < 3]
    made["pre_tokenizer"] = None
    _merge_as_sentencepiece(made["model"], [_SPACE * length for length in range(2, runs + 1)])
    core = Tokenizer.from_str(json.dumps(made))
    space = normalizers.Replace(" ", _SPACE)
    back: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spaces == "prepend":
        core.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), space])
        back.append(decoders.Strip(" ", 1, 0))
    elif spaces == "first":
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        back.append(decoders.Strip(" ", 1, 0))
    else:
        core.normalizer = space
        core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence(back)
    core.add_tokens(_specials(names))
    core.add_tokens(
        [AddedToken(_SPACE * length, special=False, normalized=False)
         for length in range(2, runs + 1)]
    )  # fmt: skip
    return core


def _merge_as_sentencepiece(model: dict[str, Any], first: Sequence[str]) -> None:
    """Let any two pieces merge whose whole is a piece, in the order in which wholes were found."""
    vocabulary: dict[str, int] = model["vocab"]
    found = list(dict.fromkeys("".join(pair) for pair in model["merges"]))
    vocabulary |= {token: len(vocabulary) + place for place, token in enumerate(first)}
    model["merges"] = [
        [token[:at], token[at:]]
        for token in (*first, *found)
        for at in range(1, len(token))
        if {token[:at], token[at:]} <= vocabulary.keys()
    ]
