"""Every rule on quality removes what it names, keeps the rest, and can be turned off."""

from typing import Any

import pytest

from tasks.curation.params import Params, QualityParams
from tasks.curation.quality import RULE_NAMES, broken_rule
from tasks.stage.errors import ConfigError
from tasks.stage.params import load_params, read_yaml, validate_params
from tests.unit.curation.test_curation import FILE, record

QUALITY = load_params(Params, [FILE]).curation.quality

BROKEN = {
    "too_short": ("Q?", "An answer."),
    "too_long": ("A question?", " ".join(f"word{number}" for number in range(600))),
    "repetitive": ("A question?", "and so it goes " * 10),
    "boilerplate": ("A question?", "As an AI language  model, I have no opinion."),
    "wrong_language": ("Какой сегодня день?", "Сегодня понедельник."),
    "truncated_answer": ("A question?", "It opens the file, reads every line of it and then the"),
}
SOUND = [
    ("What is json?", "A format."),
    ("안녕?", "반가워요."),
    ("What parameters does json.dump take?", "obj, fp"),
    (
        "What is enum for?",
        "Various conditions to check an enumeration, and more of these (see it).",
    ),
    ("List them", "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"),
    ("ㅋㅋㅋㅋ 뭐해?", "ㅋㅋㅋㅋㅋ 그냥 있어요."),
    ("Show me code", "```python\nfor item in items:\n    print(item)\n```"),
    ("How many?", "12, 24, 36, 48, 60, 72, 84, 96, 108, 120, 132, 144, 156, 168 and 180."),
]


def quality(**rules: dict[str, Any]) -> QualityParams:
    values = QUALITY.model_dump()
    for name, changes in rules.items():
        values[name] |= changes
    return QualityParams.model_validate(values)


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_a_rule_names_what_it_removes_and_can_be_turned_off(rule: str) -> None:
    row = record("r", *BROKEN[rule])

    assert broken_rule(row, quality(**{rule: {"enabled": True}})) == rule
    assert broken_rule(row, quality(**{rule: {"enabled": False}})) is None


@pytest.mark.parametrize(("question", "answer"), SOUND)
def test_a_sound_row_breaks_no_rule(question: str, answer: str) -> None:
    assert broken_rule(record("r", question, answer), QUALITY) is None


@pytest.mark.parametrize(
    "answer",
    [
        "여러 가지 이유가 있는데 첫째는 시간이 부족하다는 것이고 둘째는 돈이 없다는 것이며 그리고",
        "```python\nprint('the fence of this block of code is never closed')\n",
        "These are the reasons why it does not work at all (the first of them being the",
        "It takes the following arguments, each of which is optional:",
    ],
)
def test_an_answer_that_stops_in_the_middle_is_truncated(answer: str) -> None:
    assert broken_rule(record("r", "A question?", answer), QUALITY) == "truncated_answer"


def test_a_script_that_does_not_exist_is_a_config_error() -> None:
    content = read_yaml(FILE)
    content["quality"]["wrong_language"]["scripts"] = ["Klingon"]

    with pytest.raises(ConfigError, match="'klingon' is no script of unicode"):
        validate_params(Params, {"curation": content}, [FILE])


def test_a_phone_region_that_does_not_exist_is_a_config_error() -> None:
    content = read_yaml(FILE)
    content["personal_data"]["phone_regions"] = ["KR", "XX"]

    with pytest.raises(ConfigError, match="unknown: xx"):
        validate_params(Params, {"curation": content}, [FILE])
