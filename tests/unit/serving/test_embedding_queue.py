"""Texts are embedded as search embeds them, beside answers, in bounds of length and memory."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tasks.answering.loading import load_answerer
from tasks.answering.pipeline import Answerer
from tasks.serving import memory_budget
from tasks.serving.batcher import Batcher
from tasks.serving.embedding_queue import needed_bytes
from tasks.serving.requests import (
    DimensionsError,
    Embedded,
    EmbeddingRequest,
    NoMemoryError,
    Reply,
    TooLongTextError,
)
from tasks.stage.errors import ConfigError
from tests.builders.serving import Bundles, Ear, budget

TEXTS = [f"mod.f{n} returns {n}{' exactly' * (n % 7)}." for n in range(40)]


@pytest.fixture(scope="module")
def answerer(bundles: Bundles) -> Answerer:
    return load_answerer(bundles.folders[1], bundles.store, "adapter")


@pytest.fixture
def engine(answerer: Answerer) -> Iterator[Batcher]:
    made = Batcher(answerer, budget())
    yield made
    made.close()
    made.join()


class Heard:
    """What is told of a request, waited for."""

    def __init__(self, engine: Batcher, texts: list[str], **options: Any) -> None:
        self._told = threading.Event()
        self.event: Any = None
        self.request: EmbeddingRequest = engine.embed(texts, self._hear, **options)

    def _hear(self, event: Any) -> None:
        self.event = event
        self._told.set()

    def wait(self) -> Embedded:
        assert self._told.wait(60)
        if isinstance(self.event, Exception):
            raise self.event
        assert isinstance(self.event, Embedded)
        return self.event


def test_vectors_are_those_of_search_in_the_order_of_the_texts(
    engine: Batcher, answerer: Answerer
) -> None:
    embedder = answerer.embedder
    heard = Heard(engine, TEXTS, dimensions=embedder.dimension).wait()
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(heard.vectors, alone, atol=1e-6)
    assert heard.tokens == sum(len(ids) for ids in embedder.tokenizer(TEXTS).input_ids)
    assert (heard.digest, heard.max_tokens, heard.cut) == (embedder.digest, embedder.max_tokens, 0)


def test_answers_come_while_many_texts_are_embedded(
    engine: Batcher, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts' last part waits until the answer is there."""
    expected = Ear(engine, "What does mod.f1 do?").hear()
    encode, is_answered = type(answerer.embedder).encode, threading.Event()

    def last_waits(self: Any, texts: list[str], *rest: Any, **named: Any) -> Any:
        if texts == ["short"]:
            assert is_answered.is_set()
        return encode(self, texts, *rest, **named)

    monkeypatch.setattr(type(answerer.embedder), "encode", last_waits)
    many = [f"{number} of many words. " * 8 for number in range(600)]
    heard = Heard(engine, [*many, "short"], truncates=True)
    reply = Ear(engine, "What does mod.f1 do?").hear()
    is_answered.set()
    assert isinstance(reply, Reply)
    assert reply.token_ids == expected.token_ids
    assert len(heard.wait().vectors) == 601


def test_a_text_that_is_too_long_is_refused_or_cut_where_that_is_asked(
    engine: Batcher, answerer: Answerer
) -> None:
    long = "word " * (2 * answerer.embedder.max_tokens)
    with pytest.raises(TooLongTextError, match=r"text 1 has \d+ tokens; the embedder reads"):
        Heard(engine, ["short", long]).wait()
    heard = Heard(engine, ["short", long], truncates=True).wait()
    assert heard.cut == 1
    np.testing.assert_allclose(heard.vectors[1], answerer.embedder.encode([long])[0], atol=1e-6)


def test_other_dimensions_are_refused(engine: Batcher) -> None:
    with pytest.raises(DimensionsError, match="not of 3"):
        engine.embed(["why"], print, dimensions=3)


def test_texts_for_which_there_is_no_memory_are_refused_and_the_next_are_not(
    engine: Batcher, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = needed_bytes(answerer.embedder, TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(memory_budget, "free_memory", lambda _: needed - 1)
        with pytest.raises(NoMemoryError, match="so many texts of this length"):
            Heard(engine, TEXTS).wait()
        assert len(Heard(engine, TEXTS[:1]).wait().vectors) == 1
    assert len(Heard(engine, TEXTS).wait().vectors) == len(TEXTS)
    assert engine.in_flight == 0


def test_texts_that_nobody_waits_for_are_dropped(engine: Batcher) -> None:
    left = Heard(engine, TEXTS * 10)
    left.request.leave()
    assert len(Heard(engine, TEXTS).wait().vectors) == len(TEXTS)
    engine.close()
    engine.join()
    assert engine.in_flight == 0
    with pytest.raises(ConfigError, match="no longer served"):
        Heard(engine, TEXTS)


def test_when_embedding_breaks_who_asked_is_told_and_the_next_is_answered(
    engine: Batcher, answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(type(answerer.embedder), "encode", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            Heard(engine, TEXTS).wait()
    assert len(Heard(engine, TEXTS).wait().vectors) == len(TEXTS)
