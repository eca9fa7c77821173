"""Groundedness: known values by hand in four scripts, and what claims nothing has none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scoring.grounding import Grounding, ShownPassages, ground, unsupported_items

MARKERS = ["I don't know", "모릅니다"]
GOLD = "서울은 대한민국의 수도이다."
OTHER = "東京は日本の首都です。"


def shown(*passages: str, gold: tuple[int, ...] = (), question: str = "q") -> ShownPassages:
    return ShownPassages(question, passages, tuple(at in gold for at in range(len(passages))))


@pytest.mark.parametrize(
    ("output", "passage", "expected"),
    [
        ("a b c d", "b c x", 0.5),
        ("the the the", "the cat", 1 / 3),
        # Pairs: 대한 한민 민국 of the passage, and 국은, which it does not hold.
        ("대한민국은", GOLD, 3 / 4),
        ("日本の首都", OTHER, 1.0),
        # 日本, 本首 and 首都: the middle one is not there.
        ("日本首都", OTHER, 2 / 3),
        ("北京", OTHER, 0.0),
        # json.dumps, 함수 and 수는: the last pair is not there.
        ("json.dumps 함수는", "함수 json.dumps", 2 / 3),
        # 水 alone is held by what holds it in any pair.
        ("水", "飲み水です", 1.0),
        ("+=", "x += 1", 1.0),
        # A number with another sign, an operator and an identifier that the passage does not hold.
        ("x > 0", "x < 0", 2 / 3),
        ("-1", "returns 1", 0.0),
        ("args", "f(*args)", 0.0),
        ("init", "__init__", 0.0),
        ("기온은 -5도", "기온은 5도", 3 / 4),
        # A dotted name holds its parts and its ends, and no other name.
        ("dumps of json", "json.dumps of", 1.0),
        ("TextCalendar.prweek", "calendar.TextCalendar.prweek(year)", 1.0),
        ("json.dump", "json.dumps, json.load", 0.0),
        ("14", "3.14", 0.0),
        ("서\ufffd", "서울", 1 / 2),
    ],
)
def test_groundedness_has_its_known_values(output: str, passage: str, expected: float) -> None:
    assert ground(output, shown(passage), MARKERS).groundedness == pytest.approx(expected)


@settings(deadline=None)  # the first example imports
@given(st.text("ab가나東 .1", min_size=1, max_size=12))
def test_a_copied_passage_is_wholly_grounded(text: str) -> None:
    found = ground(text, shown(text), MARKERS)
    assert found.groundedness == (1.0 if text.strip() else None)
    assert found.unsupported == 0


def test_all_passages_together_support_an_answer() -> None:
    assert ground("a b", shown("a", "b"), MARKERS).groundedness == 1.0


@pytest.mark.parametrize("output", ["", "  ", "I don’t know.", "모릅니다."])
def test_what_claims_nothing_has_no_groundedness(output: str) -> None:
    found = ground(output, shown(GOLD, gold=(0,)), MARKERS)
    assert (found.groundedness, found.attribution) == (None, None)


def test_without_passages_nothing_is_grounded_or_perfect() -> None:
    assert ground("Paris", shown(), MARKERS) == Grounding(None, 1, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was in 2024, for 1,234.5 or 1234.5", {"2024", "1234.5"}),
        ("-1 and −2, 50 % or $5 for 3€", {"-1", "-2", "50%", "5$", "3€"}),
        ("3.5kg of 1e-5 at 10:30", {"3.5", "1e-5", "10:30"}),
        ("５명과 3개, 100km", {"5", "3", "100"}),
        ("٣ and 3", {"3"}),
        ("b32decode of utf8 and v1", set()),
        ("Return it. Then stop: Now!\nGo", set()),
        ("the city of Paris", {"paris"}),
        ("Paris.", {"paris"}),
        ("New York", {"new", "york"}),
        ("Paris는 수도이다", {"paris"}),
        ("NASA did", {"nasa"}),
        ("use json.dumps and my_name, TextWrapper", {"json.dumps", "my_name", "textwrapper"}),
        ("삼성전자는 GPU에서", {"gpu"}),
        ("서울은 수도이다", set()),
        ("so I think, e.g. that", set()),
    ],
)
def test_numbers_and_names_are_known_for_what_they_are(text: str, expected: set[str]) -> None:
    assert unsupported_items(text, []) == expected


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("in 1234", "of 1,234 there"),
        ("−3 % of it", "it is -3%"),
        ("use C++", "C++ is there"),
        ("the GPU", "gpu에서"),
        ("it is TextCalendar.prweek", "calendar.TextCalendar.prweek(theyear)"),
        ("about json", "json.dumps"),
        ("5명", "５명"),
    ],
)
def test_what_a_source_holds_in_another_form_is_supported(text: str, source: str) -> None:
    assert unsupported_items(text, [source]) == set()


def test_part_of_a_word_or_a_number_supports_nothing() -> None:
    assert unsupported_items("the Art of 24", ["party like 2024"]) == {"art", "24"}


@pytest.mark.parametrize(
    ("text", "source"), [("50%", "50"), ("-1", "1"), ("$5", "€5"), ("in C#", "in C++")]
)
def test_another_sign_unit_or_suffix_is_no_support(text: str, source: str) -> None:
    assert len(unsupported_items(text, [source])) == 1


def test_the_question_supports_names_but_grounds_nothing() -> None:
    found = ground("of Paris", shown("x", question="Where is Paris?"), MARKERS)
    assert (found.groundedness, found.unsupported) == (0.0, 0)


@pytest.mark.parametrize(
    ("output", "gold", "expected"),
    [
        ("대한민국의 수도", (0,), 1.0),
        ("日本の首都", (0,), 0.0),
        ("zzz", (0,), 0.0),
        ("日本の首都", (), None),
    ],
)
def test_an_answer_is_attributed_to_the_passage_that_supports_most(
    output: str, gold: tuple[int, ...], expected: float | None
) -> None:
    assert ground(output, shown(GOLD, OTHER, gold=gold), MARKERS).attribution == expected


def test_passages_that_support_as_much_share_the_attribution() -> None:
    assert ground("a", shown("a b", "a c", "d", gold=(0,)), MARKERS).attribution == 0.5


@pytest.mark.parametrize(
    ("output", "gold", "expected"),
    [
        ("수도이다[1]", (0,), 1.0),
        ("그렇다 [2].", (0,), 0.0),
        ("a [1, 2]", (0,), 0.5),
        ("a [1][2] b [1]", (0,), 0.5),
        ("a [9]", (0,), 0.0),
        ("rows[1]", (0,), None),
        ("no marker", (0,), None),
        ("a [1]", (), None),
    ],
)
def test_a_citation_is_right_when_its_passage_is_gold(
    output: str, gold: tuple[int, ...], expected: float | None
) -> None:
    assert ground(output, shown(GOLD, OTHER, gold=gold), MARKERS).citation == expected


def test_a_marker_is_no_number_and_no_part_of_the_answer() -> None:
    found = ground("서울 [1]", shown(GOLD, gold=(0,)), MARKERS)
    assert found == Grounding(1.0, 0, 1.0, 1.0)


@settings(deadline=None)  # the first example imports
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_has_shares_between_zero_and_one(output: str, passage: str) -> None:
    found = ground(output, shown(passage, "서울 [1] Paris", gold=(1,)), MARKERS)
    for share in (found.groundedness, found.attribution, found.citation):
        assert share is None or 0 <= share <= 1
