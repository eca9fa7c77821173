"""Which passage a question learns, which it is told from, and what documents alone give."""

from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage
from tasks.records.schema import Message, Record
from tasks.retriever_training.pairs import (
    choose_pairs,
    hard_negatives,
    question_pairs,
    span_pairs,
)


def passage(document: str, text: str, place: int = 0) -> Passage:
    return Passage(f"{document}#{place}", document, "", text)


def record(
    name: str,
    question: str,
    answer: str,
    *documents: str,
    group: str = "",
    is_feedback: bool = False,
) -> Record:
    turns = (Message("user", question), Message("assistant", answer))
    return Record(name, turns, documents, "all", group or name, "t", "CC0", "n1", is_feedback)


LONG = [
    passage("d1", "The cat sleeps on the mat all day."),
    passage("d1", "It eats fish at noon, every day.", 1),
    passage("d2", "A dog eats meat at noon."),
    passage("d3", "Trees grow slowly."),
]


def test_the_passage_with_the_answer_is_the_right_one() -> None:
    pairs = question_pairs(
        [
            record("a", "What does the cat eat?", "Fish.", "d1"),
            record("b", "Where does the cat sleep?", "On the mat.", "d1"),
            record("c", "Who knows?", "I don't know."),
            record("d", "Gone?", "Yes.", "d9"),
        ],
        LONG,
    )
    assert [(pair.id, pair.passage.id) for pair in pairs] == [("a", "d1#1"), ("b", "d1#0")]


def test_hard_negatives_are_what_bm25_finds_and_holds_nothing_of_the_right() -> None:
    [pair] = question_pairs([record("a", "What eats fish at noon?", "The cat.", "d1")], LONG)
    lexical = LexicalIndex.build([one.shown for one in LONG])
    assert hard_negatives([pair], LONG, lexical, 3) == [(LONG[2],)]
    assert hard_negatives([pair], LONG, lexical, 0) == [()]


def test_groups_that_say_when_to_stop_are_never_learned_and_feedback_comes_first() -> None:
    passages = [passage(f"d{at}", f"text {at}") for at in range(20)]
    records = [
        record(
            f"r{at}-{copy}",
            "q",
            f"text {at}",
            f"d{at}",
            group=f"g{at}",
            is_feedback=(at, copy) == (7, 1),
        )
        for at in range(20)
        for copy in range(2)
    ]
    pairs = question_pairs(records, passages)
    chosen = choose_pairs(pairs, most=10, share=0.2, seed=0)
    learned, held = ({pair.group for pair in side} for side in (chosen.learned, chosen.held_out))
    assert (len(chosen.learned), len(chosen.held_out), len(held)) == (10, 2, 2)
    assert learned.isdisjoint(held)
    assert chosen.learned[0].is_feedback or "g7" in held
    assert choose_pairs(pairs[::-1], most=10, share=0.2, seed=0) == chosen
    assert choose_pairs(pairs[:2], most=10, share=0.2, seed=0).held_out == ()


def test_a_span_is_a_sentence_that_its_passage_mostly_lacks() -> None:
    text = "Cats sleep all day long. Dogs run in the park. Birds sing in the morning."
    passages = [passage(f"d{at}", f"{text} Number {at} ends here.") for at in range(200)]
    passages.append(passage("short", "One sentence is no pair of spans."))
    pairs = span_pairs(passages, seed=0)
    assert len(pairs) == 200
    left_in = [pair for pair in pairs if pair.question in pair.passage.text]
    assert 5 < len(left_in) < 40
    for pair in pairs:
        own = next(one for one in passages if one.id == pair.passage.id)
        assert pair.question in own.text
        assert pair.question != pair.passage.text
    assert {pair.question.split()[0] for pair in pairs} == {"Cats", "Dogs", "Birds", "Number"}
    assert span_pairs(passages, seed=0) == pairs != span_pairs(passages, seed=1)
