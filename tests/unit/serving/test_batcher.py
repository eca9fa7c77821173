"""The engine answers as the answering core does, however many ask and whenever they come."""

import time
from dataclasses import replace
from typing import Any

import pytest

from tasks.answering.loading import load_answerer
from tasks.answering.pipeline import Answerer
from tasks.generation.label_trie import LabelTrie
from tasks.records.schema import Message
from tasks.retrieval.filters import Where
from tasks.serving import batcher as engine_module
from tasks.serving.batcher import Batcher
from tasks.stage.errors import ConfigError, DataError
from tests.builders.serving import Bundles, Ear, budget

QUESTIONS = [f"What does mod.f{n} do{' exactly' * (n % 5)}?" for n in range(20)]


@pytest.fixture(scope="module")
def answerer(bundles: Bundles) -> Answerer:
    loaded = load_answerer(bundles.folders[1], bundles.store, "adapter")
    # In float32 a batch of another size rounds otherwise, which turns ties of an untrained model.
    loaded.language_model.model.double()
    return loaded


@pytest.fixture
def engine(answerer: Answerer) -> Any:
    made = Batcher(answerer, budget())
    yield made
    made.close()
    made.join()


def test_answers_are_those_of_the_answering_core_token_by_token(
    engine: Batcher, answerer: Answerer
) -> None:
    """More than there are rows, at different times, one of them much longer, two of them alike."""
    asked = [*QUESTIONS, QUESTIONS[0], "What does mod.f3 do? " + "Think of it well. " * 60]
    ears = []
    for number, question in enumerate(asked):
        ears.append(Ear(engine, question))
        time.sleep(0.02 * (number % 3))
    replies = [ear.hear() for ear in ears]  # two threads at once may not use one tokenizer
    alone = answerer.answer([[Message("user", question)] for question in asked])
    for ear, reply, expected in zip(ears, replies, alone, strict=True):
        assert (reply.token_ids, reply.text) == (expected.token_ids, expected.text)
        assert reply.begun.passages == expected.passages
        assert reply.begun.prompt_sha256 == expected.prompt_sha256
        assert "".join(ear.pieces) == reply.text
        assert 0 < reply.first_token_ms <= reply.latency_ms
    assert engine.in_flight == 0


def test_text_comes_in_pieces_while_it_is_made(engine: Batcher) -> None:
    ears = [Ear(engine, question) for question in QUESTIONS[:12]]
    for ear in ears:
        ear.hear()
    # Some tokens of a model that was never trained make no text.
    assert max(len(ear.pieces) for ear in ears) > 4


def test_a_request_can_lower_the_bound_on_tokens_and_not_raise_it(engine: Batcher) -> None:
    whole = Ear(engine, QUESTIONS[2]).hear()
    short = Ear(engine, QUESTIONS[2], max_new_tokens=3).hear()
    more = Ear(engine, QUESTIONS[2], max_new_tokens=500).hear()
    assert (short.token_ids, short.is_cut) == (whole.token_ids[:3], True)
    assert more.token_ids == whole.token_ids


def test_an_answer_ends_before_a_stop_text_and_the_others_go_on(engine: Batcher) -> None:
    """The stop text is of three characters, of which this tokenizer makes several tokens."""
    whole = [Ear(engine, question).hear() for question in QUESTIONS]
    chosen = max(whole, key=lambda reply: len(set(reply.text)))
    question, length = QUESTIONS[whole.index(chosen)], len(chosen.text)
    stop = chosen.text[length // 2 : length // 2 + 3]
    ears = [Ear(engine, question, stops=["never said", stop]), *(Ear(engine, q) for q in QUESTIONS)]
    reply = ears[0].hear()
    assert reply.text == chosen.text[: chosen.text.index(stop)].strip()
    assert "".join(ears[0].pieces) == reply.text
    assert reply.token_ids == chosen.token_ids[: len(reply.token_ids)]
    assert not reply.is_cut
    assert [ear.hear().token_ids for ear in ears[1:]] == [other.token_ids for other in whole]
    unstopped = Ear(engine, question, stops=["never said"]).hear()
    assert (unstopped.text, unstopped.token_ids) == (chosen.text, chosen.token_ids)
    assert engine.in_flight == 0


def test_an_answer_that_nobody_wants_is_dropped_and_the_others_are_not(
    engine: Batcher, answerer: Answerer
) -> None:
    ears = [Ear(engine, question) for question in QUESTIONS[:12]]
    for ear in ears[::2]:
        ear.inquiry.leave()
    kept = [ear.hear().token_ids for ear in ears[1::2]]
    alone = answerer.answer([[Message("user", question)] for question in QUESTIONS[1:12:2]])
    assert kept == [answer.token_ids for answer in alone]
    deadline = time.monotonic() + 10
    while engine.in_flight and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.in_flight == 0


def test_what_cannot_be_answered_is_told_to_who_asked_alone(engine: Batcher) -> None:
    good = Ear(engine, QUESTIONS[3])
    bad = Ear(engine, QUESTIONS[3], where=Where.parse(["source=nowhere"]))
    filtered = Ear(engine, QUESTIONS[3], where=Where.parse(["document=mod.f2"]))
    with pytest.raises(ConfigError, match="no passage has the source"):
        bad.hear()
    assert {used.passage.document for used in filtered.hear().begun.passages} == {"mod.f2"}
    assert good.hear().text


def test_a_conversation_longer_than_the_model_is_refused(engine: Batcher) -> None:
    with pytest.raises(DataError, match="the model was made for"):
        Ear(engine, "why? " * 3000).hear()


def test_when_decoding_breaks_everyone_is_told_and_the_next_is_answered(
    engine: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of luck")

    expected = Ear(engine, QUESTIONS[4]).hear()
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "advance", broken)
        ears = [Ear(engine, question) for question in QUESTIONS[:4]]
        for ear in ears:
            with pytest.raises(RuntimeError, match="out of luck"):
                ear.hear()
    assert Ear(engine, QUESTIONS[4]).hear().token_ids == expected.token_ids
    assert engine.in_flight == 0


def test_a_closed_engine_answers_what_it_took_and_takes_no_more(answerer: Answerer) -> None:
    engine = Batcher(answerer, budget())
    ears = [Ear(engine, question) for question in QUESTIONS]
    engine.close()
    engine.join()
    assert all(ear.hear().token_ids for ear in ears)
    with pytest.raises(ConfigError, match="no longer served"):
        Ear(engine, QUESTIONS[0])


def test_a_model_that_must_answer_alone_does_so_in_one_piece(
    answerer: Answerer, engine: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = answerer.language_model.model.generation_config
    expected = Ear(engine, QUESTIONS[5]).hear()
    monkeypatch.setattr(settings, "min_length", 2)
    ears = [Ear(engine, question) for question in (QUESTIONS[5], QUESTIONS[6])]
    assert ears[0].hear().token_ids == expected.token_ids
    assert len(ears[0].pieces) == 1
    assert ears[1].hear().text
    stop = expected.text[-2:]
    stopped = Ear(engine, QUESTIONS[5], stops=[stop]).hear()
    assert stopped.text == expected.text[: expected.text.index(stop)].strip()
    assert not stopped.is_cut


def test_labels_are_said_whole_whatever_bound_or_stop_a_request_names(answerer: Answerer) -> None:
    labels = ["card", "card lost", "refund"]
    trie = LabelTrie.of(answerer.language_model.tokenizer, labels)
    classifier = replace(answerer, labels=trie)
    made = Batcher(classifier, budget())
    try:
        bounds = [{}, {"max_new_tokens": 1}, {"stops": [" ", "r"]}]
        ears = [Ear(made, question, **more) for question in QUESTIONS[:4] for more in bounds]
        replies = [ear.hear() for ear in ears]
    finally:
        made.close()
        made.join()
    alone = classifier.answer([[Message("user", question)] for question in QUESTIONS[:4]])
    assert [reply.text for reply in replies] == [one.text for one in alone for _ in bounds]
    assert {reply.text for reply in replies} <= set(labels)
    assert not any(reply.is_cut for reply in replies)
