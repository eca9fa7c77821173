"""Only what was cut almost surely is taken for cut, in five languages; whole answers stay."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.curation.quality import broken_rule
from tests.unit.curation.test_curation import record
from tests.unit.curation.test_quality import QUALITY
from tests.unit.curation.test_wording import SHARED, needs_shared

FILE = Path("tests/builders/labelled_answers.txt")
_CUT_HERE = "‖"


@dataclass(frozen=True)
class Answer:
    """An answer as a row holds it, and whether it was cut."""

    language: str
    text: str
    is_cut: bool


def labelled() -> Iterator[Answer]:
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        language, kind, text = line.split("\t")
        text, mark, _ = text.replace("\\n", "\n").partition(_CUT_HERE)
        assert (kind == "cut") == bool(mark), line
        yield Answer(language, text, kind == "cut")


def taken(answer: str) -> bool:
    return broken_rule(record("r", "A question?", answer), QUALITY) == "truncated_answer"


def test_what_is_taken_for_cut_is_cut() -> None:
    """`pytest -s` prints precision and recall, by language."""
    answers = list(labelled())
    assert len(answers) >= 200
    assert len({answer.language for answer in answers}) == 5
    wrong = [answer.text for answer in answers if taken(answer.text) and not answer.is_cut]
    print()
    for language in dict.fromkeys(answer.language for answer in answers):
        own = [answer for answer in answers if answer.language == language]
        cut = [answer for answer in own if answer.is_cut]
        found = sum(taken(answer.text) for answer in cut)
        every = sum(taken(answer.text) for answer in own)
        print(f"{language}: {len(own)} answers, {len(cut)} cut; precision "
              f"{found / max(every, 1):.3f}, recall {found / len(cut):.3f}")  # fmt: skip
        assert 0.4 * len(own) <= len(cut) <= 0.6 * len(own)
        assert found >= 0.4 * len(cut)
    assert wrong == []


@needs_shared
def test_whole_answers_that_look_cut_stay() -> None:
    lines = (SHARED / "field/answers_that_look_cut.jsonl").read_text(encoding="utf-8").splitlines()
    assert [row["id"] for row in map(json.loads, lines) if taken(row["answer"])] == []


@pytest.mark.parametrize("mark", ["", ".", "!", "?", "。", '"', "”", "»", ")"])
def test_what_stands_before_a_sign_of_an_end_is_never_cut(mark: str) -> None:
    for end in ("that you see the", "one, two, three,", "the first (of these which are the last"):
        text = f"This is an answer that is long enough to be looked at, {end}{mark}"
        assert taken(text) == (not mark), text
