"""The leakage check finds what stands in the finished files, however it came there."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.curation.leakage import Leakage, QuotationIndex, check_leakage
from tasks.curation.questions import Measure, same_form
from tasks.curation.shingling import jaccard, shingle_hashes, shingles
from tasks.curation.similar_sets import SimilarSets
from tasks.records.schema import Document, Record, write_documents, write_records
from tests.unit.curation.test_curation import PARAMS, many, record, sentence

pytestmark = pytest.mark.slow

TEST = record("t1", "What does the function json.dump do?", "It writes an object to a file.")


def found(folder: Path, train: list[Record], documents: list[Document] | None = None) -> Leakage:
    rows = many(60)
    split = {"train": [*rows[:50], *train], "validation": rows[50:55], "test": [*rows[55:], TEST]}
    template = [record(f"w{n}", f"What does the function {sentence(n, 1)} do?") for n in range(9)]
    for name, items in split.items():
        write_records(folder / f"{name}.jsonl", items)
    write_documents(folder / "documents.jsonl", documents or [])
    measure = Measure.of([*rows, *train, TEST, *template], 10_000)
    return check_leakage(folder, measure, PARAMS)


def test_clean_splits_have_no_leak(tmp_path: Path) -> None:
    leakage = found(tmp_path, [])

    assert leakage.total == 0
    assert leakage.compared == {"train": 50, "test": 6, "documents": 0}


@pytest.mark.parametrize(
    "question",
    [
        "What does the function json.dump do?",
        "  what DOES the function\n json.dump do ?!",
        "So what does the function json.dump do?",
    ],
)
def test_a_test_question_in_train_is_a_leak_whatever_is_answered(
    tmp_path: Path, question: str
) -> None:
    template = [record("w", "So what does the function ___ do?")] * 9
    leak = record("x", question, "Something else entirely, in other words.")

    leakage = found(tmp_path, [leak, *(replace(t, id=f"w{n}") for n, t in enumerate(template))])

    assert leakage.counts["questions"] == 1
    assert [(item.test, item.where) for item in leakage.examples["questions"]] == [("t1", "x")]


def test_a_question_from_the_same_template_is_no_leak(tmp_path: Path) -> None:
    other = record("x", "What does the function json.load do?", "It reads one from a file.")

    assert found(tmp_path, [other]).total == 0


def test_a_near_copy_of_question_and_answer_is_a_leak(tmp_path: Path) -> None:
    copy = many(60)[57]
    turns = (replace(copy.messages[0], content=copy.question + " Tell!"), copy.messages[1])

    leakage = found(tmp_path, [replace(copy, id="x", group="x", messages=turns)])

    assert leakage.counts == {"questions": 1, "few_shot": 0, "documents": 0, "groups": 0}


@pytest.mark.parametrize("change", [{"id": "t1"}, {"group": "t1"}])
def test_a_test_record_or_one_of_its_document_in_the_few_shot_pool_is_a_leak(
    tmp_path: Path, change: dict[str, str]
) -> None:
    other = replace(record("x", "Where is it?", "Over there."), **change)  # type: ignore[arg-type]

    leakage = found(tmp_path, [other])

    assert leakage.counts["few_shot"] == 1
    assert leakage.counts["groups"] == ("group" in change)


def test_a_document_may_hold_the_answer_but_not_the_pair(tmp_path: Path) -> None:
    answer = Document("d1", "json.dump: it writes an object to a file.", "", "", "")
    asked = Document("d2", "Q: What does the function json.dump do? See below.", "", "", "")
    pair = Document(
        "d3", "FAQ.\nQ: what does the function JSON.dump do?\nA: It writes an object\nto a file.",
        "", "", "",
    )  # fmt: skip

    leakage = found(tmp_path, [], [answer, asked, pair])

    assert leakage.counts["documents"] == 1
    assert [(leak.test, leak.where) for leak in leakage.examples["documents"]] == [("t1", "d3")]


def test_a_korean_pair_in_a_document_is_found_despite_spacing() -> None:
    index = QuotationIndex([(same_form("어떻게 해야 할까?"), same_form("푹 쉬세요."))])

    assert index.find("문: 어떻게 해야할까? 답: 푹 쉬세요!") == [0]
    assert index.find("문: 어떻게 해야할까? 답: 걸으세요!") == []


def test_every_pair_that_is_alike_enough_is_found_and_no_other() -> None:
    numbers = random.Random(3)
    texts = [sentence(number, 12) for number in range(40)]
    asked = []
    for number in range(120):
        parts = texts[number % 40].split()
        for _ in range(numbers.randint(0, 3)):
            parts[numbers.randrange(12)] = sentence(number + 900, 1)
        asked.append(" ".join(parts))
    index = SimilarSets(texts, 5, 0.8)

    for text, places in zip(asked, index.alike(asked), strict=True):
        alike = [jaccard(shingles(text, 5), shingles(other, 5)) for other in texts]
        assert sorted(places) == [place for place in range(40) if alike[place] >= 0.8]
        assert [alike[place] for place in places] == sorted(
            (alike[p] for p in places), reverse=True
        )


def edited(text: str, chance: random.Random) -> str:
    words = text.split()
    for _ in range(chance.randint(0, 3)):
        words[chance.randrange(len(words))] = chance.choice(("another", "word", "x7", "그리고"))
    return " ".join(words)


FEW = ("the", "a", "in", "of", "red", "box", "key")
SETS: dict[str, Callable[[int], str]] = {
    "texts": lambda n: sentence(n, 4 + n % 30),
    "a few letters": lambda n: f"e{n % 90}",
    "one template": lambda n: f"What does the code E{n:04} of the heater in room {n % 7} mean?",
    "few words": lambda n: " ".join(random.Random(n).choices(FEW, k=9)),
}  # fmt: skip


@pytest.mark.parametrize("similarity", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("name", SETS)
def test_no_alike_text_is_missed_in_larger_sets(name: str, similarity: float) -> None:
    chance = random.Random(4)
    texts = [SETS[name](number) for number in range(600)]
    asked = [edited(SETS[name](number), chance) for number in range(300, 900)]
    index = SimilarSets(texts, 5, similarity)
    sets = [shingles(text, 5) for text in texts]

    found = index.alike(asked)

    for text, places in zip(asked, found, strict=True):
        own = shingles(text, 5)
        alike = [jaccard(own, other) for other in sets]
        assert sorted(places) == [at for at, value in enumerate(alike) if value >= similarity]
        assert places == sorted(places, key=lambda at: (-alike[at], at))
    assert any(found)


def test_hashed_shingles_are_the_shingles() -> None:
    texts = ["", "ab", "Hello  World", "어떻게 해야 할까요", "aaaaaaaa", "今天天气很好", "x" * 300]
    hashes, starts = shingle_hashes(texts, 5)

    for place, text in enumerate(texts):
        own = set(hashes[starts[place] : starts[place + 1]].tolist())
        assert len(own) == len(shingles(text, 5))
        alone, _ = shingle_hashes([text], 5)
        assert own == set(alone.tolist())
