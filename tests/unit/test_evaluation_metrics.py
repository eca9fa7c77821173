"""Scores with known values in several scripts, the same through `evaluate.load`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

import tasks.evaluation.metrics
from tasks.evaluation.scores import SCORES, exact_match, rouge_l, token_f1
from tasks.records.text import score_tokens

SENTENCES = [
    "Serialize an object to JSON.",
    "서울은 대한민국의 수도이다.",
    "东京是日本的首都。",
    "json.dumps 함수는 文字列을 반환한다",
    "ภาษาไทยไม่มีช่องว่าง",
    "हिन्दी भाषा",
    "+=",
]


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("text", SENTENCES)
def test_an_answer_equal_to_its_reference_scores_one(name: str, text: str) -> None:
    assert SCORES[name](text, text) == pytest.approx(1)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("text", SENTENCES)
def test_an_empty_answer_scores_zero(name: str, text: str) -> None:
    assert SCORES[name]("", text) == 0


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        ("a b c", "b c d", 2 / 3),
        ("a a b", "a b", 0.8),
        ("서울", "서울은", 0.8),
        ("日本首都", "日本的首都", 8 / 9),
        ("한국 seoul", "한국 Seoul city", 6 / 7),
        ("x", "y", 0.0),
    ],
)
def test_token_f1_has_its_known_values(output: str, reference: str, expected: float) -> None:
    assert token_f1(output, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [("a b c d", "a c b d", 0.75), ("首都東京", "東京首都", 0.5), ("수도 서울", "서울 수도", 0.5)],
)
def test_rouge_l_has_its_known_values(output: str, reference: str, expected: float) -> None:
    assert rouge_l(output, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("output", "reference"),
    [
        ("Paris.", "paris"),
        (" Ｐａｒｉｓ！", "Paris"),
        ("서울", "서울"),
        ("Café", "Cafe\u0301"),
        ("«はい。»", "はい"),
    ],
)
def test_exact_match_forgives_case_width_form_and_edges(output: str, reference: str) -> None:
    assert exact_match(output, reference) == 1


@pytest.mark.parametrize(
    ("output", "reference"), [("+", "-"), ("json.dump", "json.dumps"), ("", "x")]
)
def test_exact_match_forgives_nothing_else(output: str, reference: str) -> None:
    assert exact_match(output, reference) == 0


class OurTokens:
    def tokenize(self, text: str) -> list[str]:
        return score_tokens(text)


@given(st.text("ab가나東 .", max_size=12), st.text("ab가나東 .", min_size=1, max_size=12))
def test_rouge_l_is_what_the_reference_package_makes_of_our_tokens(left: str, right: str) -> None:
    if score_tokens(left) and score_tokens(right):
        peer = RougeScorer(["rougeL"], tokenizer=OurTokens()).score(right, left)["rougeL"].fmeasure
        assert rouge_l(left, right) == pytest.approx(peer)


@given(st.text(max_size=20), st.text(max_size=20))
def test_scores_stay_between_zero_and_one_and_f1_is_symmetric(left: str, right: str) -> None:
    assert all(0 <= score(left, right) <= 1 + 1e-9 for score in SCORES.values())
    assert token_f1(left, right) == pytest.approx(token_f1(right, left))


def test_the_metric_modules_load_offline_and_agree_with_the_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import evaluate

    folder = Path(tasks.evaluation.metrics.__file__).parent
    modules = [evaluate.load(str(folder / f"{name}.py"), keep_in_memory=True) for name in SCORES]
    outputs, references = ["서울", "a b c", ""], ["서울은", "b c d", "x"]
    found = evaluate.combine(modules).compute(predictions=outputs, references=references)
    for name, score in SCORES.items():
        pairs = zip(outputs, references, strict=True)
        assert found[name] == pytest.approx(sum(score(*pair) for pair in pairs) / 3)
