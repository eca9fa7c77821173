"""Duplicates go, what leaks goes, and splits are stable."""

import random
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.curation.likeness import compare
from tasks.curation.params import Params
from tasks.curation.preparation import prepare, split_of
from tasks.curation.selection import select
from tasks.curation.shingling import jaccard, shingles
from tasks.records.schema import SPLITS, Message, Record
from tasks.stage.params import load_params

pytestmark = pytest.mark.slow

FILE = Path("params/curation.yaml")


def changed(**changes: Any) -> Params:
    values = load_params(Params, [FILE]).curation.model_dump()
    return Params.model_validate({"curation": values | changes})


PARAMS = changed().curation


def record(identifier: str, question: str, answer: str = "It is so.", **more: Any) -> Record:
    turns = (Message("user", question), Message("assistant", answer))
    made = Record(identifier, turns, (), "all", identifier, "", "", "1")
    return replace(made, **more)


def sentence(seed: int, count: int = 12) -> str:
    letters = random.Random(seed)
    return " ".join("".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(count))


def many(count: int) -> list[Record]:
    return [
        record(f"r{number:04}", f"What is {sentence(number)}?", sentence(number + 5000, 5))
        for number in range(count)
    ]


def named(split: str, prefix: str) -> str:
    names = (f"{prefix}{number}" for number in range(10_000))
    return next(name for name in names if SPLITS[split_of(name, PARAMS)] == split)


def fates(
    records: Sequence[Record], folder: Path
) -> dict[str, tuple[str, str | None, float | None]]:
    """Id -> (split or rule, id of the row kept, likeness)."""
    prepared = prepare(records, PARAMS, folder)
    removals = select(prepared, PARAMS)
    found: dict[str, tuple[str, str | None, float | None]] = {}
    for row, name in enumerate(prepared.ids):
        gone = removals.get(row)
        if gone is None:
            found[name] = (SPLITS[prepared.splits[row]], None, None)
        else:
            kept = None if gone.kept is None else prepared.ids[gone.kept]
            found[name] = (gone.rule, kept, gone.similarity)
    return found


def test_an_exact_duplicate_goes_and_names_the_row_that_stays(tmp_path: Path) -> None:
    found = fates([record("b", "The same question?"), record("a", "The same question?")], tmp_path)

    assert found["a"][0] in SPLITS
    assert found["b"] == ("exact_duplicate", "a", 1.0)


def test_the_row_of_the_earlier_intake_stays(tmp_path: Path) -> None:
    newer = replace(record("a", "The same question?"), intake="2")
    found = fates([newer, record("b", "The same question?")], tmp_path)

    assert found["b"][0] in SPLITS
    assert found["a"][:2] == ("exact_duplicate", "b")


def test_a_near_duplicate_goes_and_a_templated_question_stays(tmp_path: Path) -> None:
    text = sentence(1, count=30)
    records = [
        record("a", text),
        record("b", f"{text}!"),
        record("c", "What parameters does json.dump take?", "obj, fp"),
        record("d", "What parameters does json.dumps take?", "obj"),
        record(
            "e",
            "오늘 날씨가 참 좋은데 산책이나 같이 갈까요? 공원도 좋고 강가도 좋아요",
            "네 좋아요",
        ),
        record(
            "f",
            "저, 오늘 날씨가 참 좋은데 산책이나 같이 갈까요? 공원도 좋고 강가도 좋아요",
            "네 좋아요",
        ),
        record(
            "g", "今天天气很好我们一起去公园散步好不好呢然后再去河边坐一会儿看看风景聊聊天", "好的"
        ),
        record(
            "h", "!今天天气很好我们一起去公园散步好不好呢然后再去河边坐一会儿看看风景聊聊天", "好的"
        ),
    ]

    found = fates(records, tmp_path)

    for removed, kept in (("b", "a"), ("f", "e"), ("h", "g")):
        assert found[removed][:2] == ("near_duplicate", kept)
        assert (found[removed][2] or 0) >= 0.9
    assert {found[name][0] for name in "cd"} <= set(SPLITS)


def test_a_training_row_like_a_held_out_one_goes(tmp_path: Path) -> None:
    text = sentence(2, count=12)
    test = record(named("test", "a"), text)
    train = record(named("train", "b"), text.replace(text[:6], "other1"))

    found = fates([test, train], tmp_path)

    assert found[test.id][0] == "test"
    rule, kept, similarity = found[train.id]
    assert (rule, kept) == ("like_test", test.id)
    assert 0.8 <= (similarity or 0) < 0.9


@pytest.mark.parametrize(
    ("asked", "answer", "leaks"),
    [
        ("what does  json.dump do", "Another answer altogether, of other words.", True),
        ("What does the json.dump do?", "Another answer altogether, of other words.", True),
        ("What does json.dumps do?", "Another answer altogether, of other words.", False),
        ("What does pickle.dump do?", "Another answer altogether, of other words.", False),
    ],
)
def test_a_training_row_that_asks_a_test_question_goes(
    tmp_path: Path, asked: str, answer: str, leaks: bool
) -> None:
    # So that the words of the template are common ones.
    words = [sentence(number, 1) for number in range(40)]
    template = [record(named("validation", f"v{w}"), f"What does the {w} do?", w) for w in words]
    test = record(named("test", "a"), "What does json.dump do?", "Write a thing to a file.")
    train = record(named("train", "b"), asked, answer)

    found = fates([*template, test, train], tmp_path)

    assert found[train.id][0] == ("asks_test_question" if leaks else "train")
    assert found[train.id][1] == (test.id if leaks else None)
    assert found[test.id][0] == "test"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(
        st.tuples(st.sampled_from("abcd ef"), st.integers(1, 9), st.integers(0, 5)),
        min_size=2,
        max_size=24,
    ),
    cut=st.integers(1, 23),
)
def test_new_rows_never_move_an_old_row_to_another_split(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, int, int]], cut: int
) -> None:
    """Rows that repeat one another in every way; a train row may go, a held-out one never does."""
    rows = [
        record(f"r{place}", f"{letter * size} and {sentence(number)}", intake=f"{place >= cut:d}")
        for place, (letter, size, number) in enumerate(texts)
    ]
    folder = tmp_path_factory.mktemp("grown")
    before, after = fates(rows[:cut], folder), fates(rows, folder)

    for name, (fate, _, _) in before.items():
        if fate == "test":
            assert after[name][0] == "test"
        elif fate in SPLITS:
            assert after[name][0] == fate or after[name][0] not in SPLITS


def test_the_index_finds_what_comparing_every_pair_finds(tmp_path: Path) -> None:
    numbers = random.Random(7)
    rows = [record(f"r{place:03}", f"{sentence(place, 20)}?") for place in range(30)]
    for place in range(30, 120):
        words = numbers.choice(rows).question.split()
        for _ in range(numbers.randint(0, 3)):
            words[numbers.randrange(len(words))] = sentence(place + 1000, 1)
        rows.append(record(f"r{place:03}", " ".join(words)))
    prepared = prepare(rows, PARAMS, tmp_path)
    own = [shingles(prepared.own_texts.line(place).decode(), 5) for place in range(len(rows))]
    told = [prepared.measure.wording.told(row) for row in rows]

    found = fates(rows, tmp_path)

    stays: list[int] = []
    for place, row in enumerate(rows):
        alike = [
            min(jaccard(own[place], own[other]), compare(told[place], told[other], 5).repeats)
            for other in stays
        ]
        repeats = found[row.id][0] in ("exact_duplicate", "near_duplicate")
        assert repeats == (max(alike, default=0.0) >= PARAMS.duplicate_similarity)
        if not repeats:
            stays.append(place)
    assert 40 < len(stays) < 110
