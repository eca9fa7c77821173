"""Text of tokens that end amid characters: valid, the same every time, and whole in a stream."""

import random

import pytest
from transformers import PreTrainedTokenizerBase

from tasks.generation.streaming import TextStream, text_of
from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tests.unit.conftest import Tiny

TEXTS = [
    "안녕하세요, 밤의 베틀입니다.",
    "夜间织机，每天晚上都训练。",
    "Mixed 한국어 and 中文, then 👩‍👩‍👧 and e\u0301.",
    "  spaces\n\n around  and   inside \n",
    "",
]


@pytest.fixture
def tokenizer(tiny: Tiny) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelManifest.read(tiny.base).folder(tiny.store))


def pieces(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.feed(token) for token in ids), stream.rest()]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_gives_the_text_in_whole_characters(
    text: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    made = pieces(tokenizer, ids)
    assert "".join(made) == text_of(tokenizer, ids) == text.strip()
    assert not any("\ufffd" in piece for piece in made)


def test_a_syllable_of_three_tokens_comes_with_its_last(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode("밤", add_special_tokens=False)
    assert len(ids) == 3
    assert pieces(tokenizer, ids) == ["", "", "밤", ""]


@pytest.mark.parametrize("kept", [1, 2, 4, 5])
def test_an_answer_cut_amid_a_character_is_valid_text(
    kept: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    ids = tokenizer.encode("밤밤", add_special_tokens=False)[:kept]
    text = text_of(tokenizer, ids)
    assert text.encode("utf-8").decode("utf-8") == text
    assert text.startswith("밤" * (kept // 3))
    assert set(text[kept // 3 :]) == {"\ufffd"}
    assert "".join(pieces(tokenizer, ids)) == text


@pytest.mark.parametrize("seed", range(20))
def test_any_tokens_make_valid_text_and_the_same_in_a_stream(
    seed: int, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Bytes at random, most of them no UTF-8, and special tokens among them."""
    draw = random.Random(seed)
    ids = [draw.randrange(300 if draw.random() < 0.8 else len(tokenizer)) for _ in range(60)]
    text = text_of(tokenizer, ids)
    assert text.encode("utf-8").decode("utf-8") == text
    assert text == text_of(tokenizer, list(ids))
    assert "".join(pieces(tokenizer, ids)) == text
