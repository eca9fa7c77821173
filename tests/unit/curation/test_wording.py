"""Rows are alike by what tells them apart: not by what many rows of their set share."""

import csv
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.curation.leakage import check_leakage
from tasks.curation.likeness import misspelt
from tasks.curation.preparation import prepare
from tasks.curation.questions import Measure
from tasks.curation.selection import select
from tasks.records.schema import SPLITS, Message, Record, write_documents, write_records
from tests.unit.curation.test_curation import PARAMS, named, record, sentence

SHARED = Path(__file__).parents[4] / "shared"
needs_shared = pytest.mark.skipif(
    not (SHARED / "field").exists(), reason="../shared is missing: data that are no part of us"
)
SYSTEM = (
    "You are the assistant of Norra Tools, who lend tools to their neighbours. You are polite and "
    "brief. You never promise a tool before somebody looked into the shed. Prices are in crowns."
)
OTHER_SYSTEM = (
    "Act as the librarian of a small town. You know every shelf by heart. You answer in full "
    "sentences, and you never tell who has borrowed a book. Fines are two crowns a day."
)
INSTRUCTION = (
    "Read the message of a customer below and answer it as our shop would: in one sentence, "
    "without a greeting, and without a promise that we can't keep.\n\n"
)
ENGLISH = [
    (f"Do you have a {a} {b}, and may I keep it until {c}?", f"{d} about the {b}.")
    for a, b, c, d in zip(
        ["long", "short", "red", "blue", "wide", "narrow", "cheap", "new", "used", "heavy"] * 12,
        [
            "ladder",
            "drill",
            "saw",
            "hammer",
            "plane",
            "spade",
            "rake",
            "axe",
            "vice",
            "level",
            "awl",
        ]
        * 11,
        ["Monday", "Tuesday", "Wednesday", "Friday", "Sunday", "noon", "tomorrow"] * 18,
        ("Ask Maja", "Come by", "We will see", "Call us", "Write to Otto") * 24,
        strict=False,
    )
]
KOREAN = [
    (f"{a} {b} {number}개를 {c}까지 빌릴 수 있을까요?", f"{d} {b}는 {number}번 선반에 있어요.")
    for number, a, b, c, d in zip(
        range(3, 123),
        ["긴", "짧은", "빨간", "파란", "넓은", "좁은", "낡은"] * 18,
        ["사다리", "망치", "드릴", "삽", "도끼", "톱", "렌치", "갈퀴", "대패"] * 14,
        ["월요일", "화요일", "금요일", "주말", "내일", "저녁"] * 20,
        ["네,", "물론,", "아마,", "잠시만요,"] * 30,
        strict=False,
    )
]


def left(rows: Sequence[Record], folder: Path) -> list[Record]:
    """The rows that stay."""
    removals = select(prepare(rows, PARAMS, folder), PARAMS)
    return [row for place, row in enumerate(rows) if place not in removals]


def asked(number: int, question: str, answer: str, *before: Message, prefix: str = "r") -> Record:
    made = record(f"{prefix}{number:04}", question, answer)
    return replace(made, messages=(*before, *made.messages))


def plain(pairs: Sequence[tuple[str, str]]) -> list[Record]:
    return [asked(number, *pair) for number, pair in enumerate(pairs)]


def system(text: str) -> Message:
    return Message("system", text)


@needs_shared
@pytest.mark.parametrize("name", ["shared_system_prompt", "error_codes"])
def test_every_row_of_the_field_files_stays(name: str, tmp_path: Path) -> None:
    rows = []
    for line in (SHARED / f"field/{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        turns = row.get("messages") or [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        messages = tuple(Message(**turn) for turn in turns)
        rows.append(replace(record(row["id"], ""), messages=messages))

    assert len(left(rows, tmp_path)) == len(rows) == 100


SHARING: dict[str, Callable[[int, str, str], Record]] = {
    "system": lambda n, q, a: asked(n, q, a, system(SYSTEM)),
    "system of 40%": lambda n, q, a: asked(n, q, a, *([system(SYSTEM)] if n % 5 < 2 else [])),
    "two systems": lambda n, q, a: asked(n, q, a, system((SYSTEM, OTHER_SYSTEM)[n % 2])),
    "instruction": lambda n, q, a: asked(n, INSTRUCTION + q, a),
    "instruction of 40%": lambda n, q, a: asked(n, (INSTRUCTION if n % 5 < 2 else "") + q, a),
    "instruction behind": lambda n, q, a: asked(n, f"{q}\n\n{INSTRUCTION.strip()}", a),
    "opening turns": lambda n, q, a: asked(
        n, q, a, Message("user", f"Hello! {SYSTEM}"), Message("assistant", OTHER_SYSTEM)
    ),
}


@pytest.mark.parametrize("pairs", [ENGLISH, KOREAN], ids=["english", "korean"])
@pytest.mark.parametrize("how", SHARING)
def test_a_set_loses_no_more_rows_for_what_its_rows_share(
    pairs: list[tuple[str, str]], how: str, tmp_path: Path
) -> None:
    without = len(left(plain(pairs), tmp_path))
    rows = [SHARING[how](number, *pair) for number, pair in enumerate(pairs)]

    assert abs(len(left(rows, tmp_path)) - without) <= 0.02 * len(pairs)


@needs_shared
@pytest.mark.parametrize("how", SHARING)
def test_real_customers_under_a_shared_prompt_stay_as_they_do_without(
    how: str, tmp_path: Path
) -> None:
    with (SHARED / "data/banking77_test.csv").open(encoding="utf-8") as stream:
        pairs = [(row["text"], row["category"]) for row in csv.DictReader(stream)][::6]
    without = len(left(plain(pairs), tmp_path))
    rows = [SHARING[how](number, *pair) for number, pair in enumerate(pairs)]

    assert abs(len(left(rows, tmp_path)) - without) <= 0.02 * len(pairs)


ACTIONS = ("check the oil", "close valve B", "reset the breaker", "replace the fuse")
FIRST, LAST = ("Anna", "Otto", "Maja", "Elin"), ("Berg", "Lind", "Holm", "Dahl", "Ek")
HAN = "一二三四五六七八九"
TEMPLATES: dict[str, Callable[[int], tuple[str, str]]] = {
    "codes": lambda n: (
        f"What does error code E{1000 + n} mean and how do I fix it?",
        f"First {ACTIONS[n % 4]} and then write E{1000 + n} down.",
    ),
    "codes, few answers": lambda n: (
        f"What does error code E{1000 + n} mean and how do I fix it?",
        f"{ACTIONS[n % 4].capitalize()}.",
    ),
    "codes, one answer": lambda n: (
        f"What does error code E{1000 + n} mean and how do I fix it?",
        "Please call our service, which is there for you from eight to six on every day.",
    ),
    "korean codes": lambda n: (
        f"난방기 화면에 오류 코드 E{1000 + n}이 나타났습니다. 무슨 뜻이고 어떻게 고치나요?",
        f"먼저 전원을 끄고 코드 E{1000 + n}을 기록한 다음 서비스 센터에 전화하세요.",
    ),
    "chinese numbers": lambda n: (
        f"错误代码{HAN[n // 81 % 9]}百{HAN[n // 9 % 9]}十{HAN[n % 9]}是什么意思,我该怎么办?",
        "请先检查机器的电源,然后联系客服,他们会帮助您解决这个问题。",
    ),
    "names of two words": lambda n: (
        f"Please write a short and friendly message to our customer {FIRST[n % 4]} "
        f"{LAST[n // 4 % 5]} about ticket {70 + n // 20}, who waits for it.",
        f"Dear customer, your ticket {70 + n // 20} is being looked at by our people right now.",
    ),
    "sums": lambda n: (f"What is {n // 20 + 10} plus {n % 20 + 10}?", str(n // 20 + n % 20 + 20)),
}


@pytest.mark.parametrize("count", [60, 400])
@pytest.mark.parametrize("template", TEMPLATES)
def test_rows_of_one_template_stay_by_what_stands_in_its_slots(
    template: str, count: int, tmp_path: Path
) -> None:
    rows = plain([TEMPLATES[template](number) for number in range(count)])

    assert len(left(rows, tmp_path)) >= 0.99 * count


def test_a_template_among_other_rows_stays_too(tmp_path: Path) -> None:
    codes = [TEMPLATES["codes"](number) for number in range(40)]
    rows = plain([*codes, *((sentence(n), sentence(n + 500, 6)) for n in range(60))])

    assert len(left(rows, tmp_path)) == 100


EDITS: dict[str, Callable[[str], str]] = {
    "the same": lambda text: text,
    "case": str.upper,
    "spacing": lambda text: text.replace(" ", "  ") + "\n",
    "punctuation": lambda text: text.rstrip("?") + " ?!!",
    "please": lambda text: "Please, " + text[0].lower() + text[1:],
    "a typo": lambda text: text.replace("how do", "hwo do").replace("may I", "mya I"),
}
SETS = {
    "codes": [TEMPLATES["codes"](number) for number in range(100)],
    "codes under an instruction": [
        (INSTRUCTION + question, answer)
        for question, answer in (TEMPLATES["codes"](number) for number in range(100))
    ],
    "long questions": [(f"{sentence(n, 20)} may I?", sentence(n + 500, 6)) for n in range(100)],
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("prompt", ["", SYSTEM])
def test_a_copy_goes_whatever_its_set_shares(
    name: str, edit: str, prompt: str, tmp_path: Path
) -> None:
    before = [system(prompt)] if prompt else []
    rows = [asked(number, *pair, *before) for number, pair in enumerate(SETS[name])]
    copies = [
        asked(number, EDITS[edit](question), answer, *before, prefix="s")
        for number, (question, answer) in enumerate(SETS[name][4::5])
    ]

    assert len(left([*rows, *copies], tmp_path)) == len(rows)


@pytest.mark.parametrize("copies", [40, 60, 90])
@pytest.mark.parametrize("edit", EDITS)
def test_many_copies_of_one_row_leave_one(edit: str, copies: int, tmp_path: Path) -> None:
    """So much of the set is this row that its words are held by most rows."""
    pairs = SETS["codes"]
    rows = plain(pairs[: 100 - copies])
    question, answer = pairs[0]
    again = [asked(n, EDITS[edit](question), answer, prefix="s") for n in range(copies)]

    assert len(left([*rows, *again], tmp_path)) == 100 - copies


def test_a_set_of_copies_alone_leaves_one(tmp_path: Path) -> None:
    edits = list(EDITS.values())
    question = "Where may I put the ladder once the paint is dry, and how do I clean it?"
    rows = plain([(edits[n % len(edits)](question), "Put it back.") for n in range(100)])

    assert len(left(rows, tmp_path)) == 1


def test_one_answer_to_two_questions_and_two_answers_to_one_question_are_no_duplicates(
    tmp_path: Path,
) -> None:
    text = " ".join(sentence(1, 60).split())
    rows = [
        record("a", "What is a ladder?", text),
        record("b", "Who has my spade?", text),
        record("c", text, "Yes."),
        record("d", text, "No, never."),
    ]
    rows = [replace(row, group=named("train", row.id)) for row in rows]

    assert len(left(rows, tmp_path)) == 4


def test_one_question_about_texts_in_the_system_turn_is_no_test_question(tmp_path: Path) -> None:
    rows = [
        asked(n, "What does the customer want?", ("a tool", "a book")[n % 2],
              system(f"{SYSTEM} The customer writes: {sentence(n)}"))
        for n in range(200)
    ]  # fmt: skip

    assert len(left(rows, tmp_path)) == 200


def test_a_word_that_many_rows_have_where_few_have_another_tells_these_apart(
    tmp_path: Path,
) -> None:
    rooms = ["cellar"] * 95 + ["attic", "garden", "kitchen", "garage", "porch"]
    rows = plain(
        [
            (f"In which box in the {room} do I find the fuses of this house?", f"In box {n % 7}.")
            for n, room in enumerate(rooms)
        ]
    )
    stay = left(rows, tmp_path)

    assert {row.id for row in rows[95:]} <= {row.id for row in stay}


@pytest.mark.parametrize("prompt", ["", SYSTEM, INSTRUCTION])
def test_what_nearly_repeats_a_test_row_leaks_under_any_prompt(prompt: str, tmp_path: Path) -> None:
    """The selection takes it out, and the check finds it where it was put back."""
    before = [system(prompt)] if prompt == SYSTEM else []
    first = prompt if prompt == INSTRUCTION else ""
    rows = [
        asked(n, f"{first}{sentence(n, 12)}?", sentence(n + 500, 5), *before) for n in range(90)
    ]
    test = replace(rows[7], group=named("test", "t"))
    others = [replace(row, group=named("train", row.id)) for row in rows if row.id != test.id]
    question = test.question.removeprefix(first).split()
    question[4] = "another"
    leak = asked(1, first + " ".join(question), test.answer, *before, prefix="leak")
    leak = replace(leak, group=named("train", "leak"))

    prepared = prepare([*others, test, leak], PARAMS, tmp_path)
    removals = select(prepared, PARAMS)
    for split, items in zip(SPLITS, ([*others[1:], leak], others[:1], [test]), strict=True):
        write_records(tmp_path / f"{split}.jsonl", items)
    write_documents(tmp_path / "documents.jsonl", [])
    found = check_leakage(tmp_path, prepared.measure, PARAMS)

    assert {prepared.ids[row]: removal.rule for row, removal in removals.items()} == {
        leak.id: "like_test"
    }
    assert found.counts["questions"] == 1
    assert [(item.test, item.where) for item in found.examples["questions"]] == [(test.id, leak.id)]


def test_the_measure_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = plain([TEMPLATES["codes"](number) for number in range(300)])
    shuffled = random.Random(1).sample(rows, len(rows))

    one, other = (Measure.of(items, 30_000).wording for items in (rows, shuffled))

    assert list(one.own_texts(rows)) == list(other.own_texts(rows))


def test_a_slip_of_the_pen_is_told_from_another_word() -> None:
    for word, slip in (("the", "teh"), ("error", "errror"), ("code", "cde"), ("mean", "meam")):
        assert misspelt(word, slip)
        assert misspelt(slip, word)
    for word, other in (("cellar", "attic"), ("to", "too"), ("form", "from the"), ("read", "dear")):
        assert not misspelt(word, other)
