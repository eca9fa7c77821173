"""A trained embedder is better where the whole interval of its recall is."""

import math

import numpy as np

from tasks.lexical.chunking import Passage
from tasks.records.schema import Message, Record
from tasks.retriever_training.gate import asked_questions, compare
from tasks.retriever_training.params import GateParams

GATE = GateParams(
    recall_at=5, questions=100, least_questions=10, confidence=0.95, resamples=1000, seed=17
)


def test_a_gain_that_chance_explains_is_none() -> None:
    base = [1.0] * 40 + [math.inf] * 20
    clear = compare(base, [1.0] * 50 + [math.inf] * 10, GATE)
    assert clear.is_better
    assert clear.difference.recall.low > 0
    assert not compare(base, [*base[:-1], 1.0], GATE).is_better
    assert not compare(base, base, GATE).is_better
    assert not compare(base, [2.0] * 40 + [math.inf] * 20, GATE).is_better
    assert compare(base, [2.0] * 40 + [math.inf] * 20, GATE).difference.mrr.high < 0


def test_ranks_are_those_of_the_first_passage_of_a_right_document() -> None:
    passages = [Passage(f"d{at}#0", f"d{at}", "", f"text {at}") for at in range(12)]
    records = [
        Record(f"r{at}", (Message("user", f"{at}"), Message("assistant", "a")), names, "all",
               "g", "t", "CC0", "n")
        for at, names in enumerate([("d0",), ("d3", "d1"), ("d11",), (), ("gone",)])
    ]  # fmt: skip
    asked = asked_questions(records, passages, GATE)
    assert sorted(asked.questions) == ["0", "1", "2"]
    # Passage 0 is nearest to every question, then 1, and so on.
    near = np.linspace(1, 0, 12)
    vectors = np.stack([near, np.sqrt(1 - near**2)], axis=1).astype(np.float32)
    questions = np.tile(np.array([1, 0], np.float32), (3, 1))
    found = asked.ranks(lambda _: questions, lambda _: vectors)
    by_question = dict(zip(asked.questions, found, strict=True))
    assert by_question == {"0": 1, "1": 2, "2": math.inf}
