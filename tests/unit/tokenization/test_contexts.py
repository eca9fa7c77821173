"""Training examples see passages as a search would bring them up, and share them."""

from pathlib import Path

import pytest

from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage, cut_documents
from tasks.records.schema import Document, Message, Record
from tasks.stage.params import read_yaml
from tasks.task_types.table import TrainedTask
from tasks.tokenization.params import TokenizationParams
from tasks.tokenization.training_examples import Context, choose_contexts

NAMES = [f"{owner}.{name}" for owner in ("json", "csv", "os") for name in ("load", "dump", "walk")]


def settings(**changes: object) -> TokenizationParams:
    content = read_yaml(Path("params/tokenization.yaml")) | {"passages_share": 1.0} | changes
    return TokenizationParams.model_validate(content)


def record(name: str, question: str, *documents: str) -> Record:
    turns = (Message("user", question), Message("assistant", "An answer."))
    return Record(name, turns, documents, "s", name, "test", "CC0", "n1")


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    texts = [Document(n, f"Return what {n} does, then stop.", n, "test", "CC0") for n in NAMES]
    return cut_documents(texts, words=6, overlap_words=1)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    asked = [record(f"what/{name}", f"What does {name} do?", name) for name in NAMES]
    asked += [record(f"who/{name}", f"Which is described as {name}?", name) for name in NAMES]
    return [*asked, record("none", "What does json.burn do?")]


def contexts(
    records: list[Record], passages: list[Passage], count: int = 2, **changes: object
) -> dict[str, Context]:
    return choose_contexts(
        records, passages, query=TrainedTask().query, count=count, params=settings(**changes)
    )


def test_every_record_sees_its_gold_passage_among_others(
    records: list[Record], passages: list[Passage]
) -> None:
    first = {passage.document: passage.shown for passage in passages if passage.is_first}
    chosen = contexts(records, passages)
    assert chosen.keys() == {item.id for item in records}
    for item in records:
        assert len(chosen[item.id].passages) == 2
        assert all(first[name] in chosen[item.id].passages for name in item.documents)


def test_a_question_without_an_answer_is_asked_of_passages_that_answer_others(
    records: list[Record], passages: list[Passage]
) -> None:
    chosen = contexts(records, passages)
    shared = [name for name, context in chosen.items() if context == chosen["none"]]
    assert len(shared) > 1
    assert all("json" in passage for passage in chosen["none"].passages)


def test_no_context_serves_more_examples_than_params_say(
    records: list[Record], passages: list[Passage]
) -> None:
    chosen = contexts(records, passages, context_examples=2)
    names = [context.name for context in chosen.values()]
    assert max(map(names.count, names)) == 2


def test_the_order_of_the_records_changes_nothing(
    records: list[Record], passages: list[Passage]
) -> None:
    assert contexts(records[::-1], passages) == contexts(records, passages)


def test_a_share_of_the_records_sees_no_passages(
    records: list[Record], passages: list[Passage]
) -> None:
    shown = [bool(c.passages) for c in contexts(records, passages, passages_share=0.5).values()]
    assert 0 < sum(shown) < len(shown)
    assert not any(c.passages for c in contexts(records, passages, passages_share=0.0).values())


def test_without_documents_there_are_no_passages(records: list[Record]) -> None:
    assert all(context.passages == () for context in contexts(records, []).values())


def test_passages_stand_in_the_order_of_the_search(records: list[Record]) -> None:
    texts = [f"{name} is one. More of {name}, and then of it again." for name in NAMES]
    documents = [Document(n, t, n, "test", "CC0") for n, t in zip(NAMES, texts, strict=True)]
    passages = cut_documents(documents, words=4, overlap_words=0)
    chosen = contexts(records, passages, count=3, context_examples=1)
    index = LexicalIndex.build([passage.shown for passage in passages])
    found, _ = index.search([item.question for item in records], 6)
    for item, row in zip(records, found, strict=True):
        ranked = [passages[place].shown for place in row]
        shown = [ranked.index(text) for text in chosen[item.id].passages if text in ranked]
        assert shown == sorted(shown)
        assert len(shown) >= 2


def test_a_gold_passage_that_the_search_missed_is_shown_last() -> None:
    texts = {"gold": "Nothing alike.", "a": "What does it do?", "b": "What does it do now?"}
    documents = [Document(name, text, "", "test", "CC0") for name, text in texts.items()]
    asked = record("r", "What does it do?", "gold")
    passages = cut_documents(documents, words=9, overlap_words=0) * 3
    shown = contexts([asked], passages)["r"].passages
    assert shown[-1] == "Nothing alike."
    assert len(shown) == 2
