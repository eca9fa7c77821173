"""A set keeps as many rows under a shared prompt as without it, whatever prompt and language."""

from pathlib import Path

import pytest

from tests.builders.shared_prompts import LANGUAGES, PROMPTS, made_rows
from tests.unit.curation.test_wording import left

_WITHIN = 0.02
without: dict[tuple[str, int, bool], int] = {}


def check(language: str, prompt: str, count: int, *, labels: bool, folder: Path) -> None:
    made = LANGUAGES[language]
    if (language, count, labels) not in without:
        without[language, count, labels] = len(left(made_rows(made, count, labels=labels), folder))
    rows = made_rows(made, count, labels=labels, prompt=PROMPTS[prompt])
    kept, bare = len(left(rows, folder)), without[language, count, labels]
    assert abs(kept - bare) <= _WITHIN * bare, f"{kept} of {count} stay, {bare} without the prompt"
    assert kept <= 0.96 * count  # copies still go


@pytest.mark.parametrize("labels", [False, True], ids=["texts", "labels"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_small_sets(language: str, prompt: str, labels: bool, tmp_path: Path) -> None:
    check(language, prompt, 100, labels=labels, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [False, True], ids=["texts", "labels"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_sets_of_a_thousand_rows(language: str, prompt: str, labels: bool, tmp_path: Path) -> None:
    check(language, prompt, 1000, labels=labels, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_sets_of_five_thousand_rows(language: str, tmp_path: Path) -> None:
    check(language, "all of them", 5000, labels=True, folder=tmp_path)
