"""The loss is the written-out one, and what holds the answer is no negative."""

import math
from dataclasses import replace

import pytest
import torch

from tasks.embedding.prompts import Prompts
from tasks.lexical.chunking import Passage
from tasks.retriever_training.batches import make_batches, masked_share
from tasks.retriever_training.objective import info_nce
from tasks.retriever_training.pairs import Pair


def written_out(questions, passages, negatives, temperature):  # type: ignore[no-untyped-def]
    """The loss by loops over single numbers."""
    total = 0.0
    for row, question in enumerate(questions):
        scores = []
        for column, passage in enumerate(passages):
            if column == row or negatives[row][column]:
                dot = sum(a * b for a, b in zip(question, passage, strict=True))
                lengths = math.hypot(*question) * math.hypot(*passage)
                scores.append((column, dot / lengths / temperature))
        whole = math.log(sum(math.exp(value) for _, value in scores))
        total += whole - dict(scores)[row]
    return total


def test_the_loss_is_the_written_out_one() -> None:
    generator = torch.Generator().manual_seed(0)
    questions = torch.randn(4, 6, generator=generator)
    passages = torch.randn(7, 6, generator=generator)
    negatives = torch.rand(4, 7, generator=generator) < 0.6
    found = info_nce(questions, passages, negatives, temperature=0.2)
    expected = written_out(questions.tolist(), passages.tolist(), negatives.tolist(), 0.2)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_question_without_negatives_costs_nothing() -> None:
    found = info_nce(
        torch.ones(1, 3), torch.ones(2, 3), torch.zeros(1, 2, dtype=torch.bool), temperature=0.05
    )
    assert found.item() == 0


def test_a_masked_passage_has_no_say() -> None:
    questions, passages = torch.eye(3), torch.eye(3).repeat(2, 1)
    negatives = torch.ones(3, 6, dtype=torch.bool)
    negatives[:, 3:] = False
    masked = info_nce(questions, passages, negatives, temperature=0.5)
    alone = info_nce(questions, passages[:3], negatives[:, :3], temperature=0.5)
    assert masked.item() == pytest.approx(alone.item())


def passage(document: str, text: str, place: int = 0) -> Passage:
    return Passage(f"{document}#{place}", document, "", text)


def test_passages_that_hold_the_gold_are_no_negatives() -> None:
    right = passage("d1", "Seoul is the capital of Korea.")
    pair = Pair("q1", "What is the capital of Korea?", right, frozenset({"d1", "d5"}), "g", "Seoul")
    same = passage("d9", right.text)
    assert pair.is_held_by(right)
    assert pair.is_held_by(passage("d1", "Other words.", 1))
    assert pair.is_held_by(passage("d5", "Also right."))
    assert pair.is_held_by(passage("d7", "People of  SEOUL know it."))
    assert replace(pair, answer="").is_held_by(same)
    assert not pair.is_held_by(passage("d8", "Busan has a port."))
    assert not replace(pair, answer="").is_held_by(passage("d7", "People of Seoul know it."))


def test_a_batch_masks_what_its_questions_are_not_told_from() -> None:
    pairs = [
        Pair("a", "one?", passage("d1", "one and two"), frozenset({"d1"}), "a", "one"),
        Pair("b", "two?", passage("d2", "only 2"), frozenset({"d2"}), "b", "2"),
    ]
    hard = [(passage("d3", "three"),), (passage("d4", "nothing else"),)]

    def tokenize(texts):  # type: ignore[no-untyped-def]
        return {"input_ids": torch.ones(len(texts), 3), "attention_mask": torch.ones(len(texts), 3)}

    [batch] = make_batches(pairs, hard, tokenize, Prompts(), size=8)
    assert batch.packs[0].negatives.tolist() == [
        [False, True, True, True],
        [True, False, True, True],
    ]
    assert masked_share([batch]) == 0
    again = replace(pairs[1], answer="two")
    [batch] = make_batches([pairs[0], again], hard, tokenize, Prompts(), size=8)
    assert batch.packs[0].negatives.tolist()[1] == [False, False, True, True]
    assert masked_share([batch]) == pytest.approx(1 / 6)
    assert (batch.supervised, batch.computed_tokens) == (2, 18)
