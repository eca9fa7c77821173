"""Scores with known values in several scripts, the same through `evaluate.load`."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from tasks.evaluation.metrics import METRICS
from tasks.scoring.answer_scores import SCORES, exact_match, length_ratio, rouge_l, token_f1
from tasks.scoring.tokens import answer_tokens
from tasks.stage.errors import ConfigError

MARKERS = ["I don't know", "모릅니다"]
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
    ("output", "reference", "expected"),
    [
        # Of each order both hold, precision is 1; recall 2/3 and 1/2: F2 of 1 and 7/12.
        ("서울", "서울은", 7 / 11),
        ("東京", "東京都", 7 / 11),
        ("ab", "abc", 7 / 11),
        ("한ab", "한abc", 115 / 167),
        ("x", "y", 0.0),
    ],
)
def test_chrf_has_its_known_values(output: str, reference: str, expected: float) -> None:
    assert SCORES["chrf"](output, reference) == pytest.approx(expected)


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
        return list(answer_tokens(text))


@given(st.text("ab가나東 .", max_size=12), st.text("ab가나東 .", min_size=1, max_size=12))
def test_rouge_l_is_what_the_reference_package_makes_of_our_tokens(left: str, right: str) -> None:
    if answer_tokens(left) and answer_tokens(right):
        peer = RougeScorer(["rougeL"], tokenizer=OurTokens()).score(right, left)["rougeL"].fmeasure
        assert rouge_l(left, right) == pytest.approx(peer)


@given(st.text(max_size=20), st.text(max_size=20))
def test_scores_stay_between_zero_and_one_and_f1_is_symmetric(left: str, right: str) -> None:
    assert all(0 <= score(left, right) <= 1 + 1e-9 for score in SCORES.values())
    assert token_f1(left, right) == pytest.approx(token_f1(right, left))


PATH = str(Path("tasks/evaluation/metrics.py").resolve())
OFFLINE = """
import socket, sys
def refuse(*_, **__): raise OSError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
for name in sys.argv[2:]:
    print(evaluate.load(sys.argv[1], name, keep_in_memory=True).config_name)
"""


@pytest.mark.slow
def test_every_metric_loads_without_a_network() -> None:
    assert METRICS.keys() >= {*SCORES, "groundedness", "citation", "retrieval"}
    told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, PATH, *METRICS],
        env=told, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(METRICS)


def test_the_metrics_agree_with_the_scores() -> None:
    import evaluate

    outputs, references = ["서울", "a b c", ""], ["서울은", "b c d", "x"]
    combined = evaluate.combine([load(name) for name in SCORES])
    found = combined.compute(predictions=outputs, references=references)
    for name, score in SCORES.items():
        pairs = zip(outputs, references, strict=True)
        assert found[name] == pytest.approx(sum(score(*pair) for pair in pairs) / 3)


def test_a_metric_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no metric bleu; expected one of exact_match, "):
        load("bleu")


def load(name: str) -> Any:
    import evaluate

    return evaluate.load(PATH, name, keep_in_memory=True)


def test_a_broken_output_is_never_equal_to_a_sound_reference() -> None:
    assert exact_match("서울\ufffd", "서울") == 0
    assert token_f1("서울\ufffd", "서울") == pytest.approx(0.8)
    assert rouge_l("서\ufffd울", "서울") == pytest.approx(0.8)
    assert SCORES["chrf"]("서울\ufffd", "서울") < 1


@pytest.mark.parametrize(
    ("outputs", "references", "expected"),
    [
        (["a b c d"], ["a b"], 2.0),
        (["서울은"], ["서울"], 1.5),
        (["東京は日本の首都", ""], ["東京", "首都 x"], 8 / 5),
        (["한국 seoul city"], ["한국 Seoul"], 4 / 3),
    ],
)
def test_the_length_ratio_has_its_known_values(
    outputs: list[str], references: list[str], expected: float
) -> None:
    assert length_ratio(outputs, references) == pytest.approx(expected)
    found = load("length_ratio").compute(predictions=outputs, references=references)
    assert found == {"length_ratio": pytest.approx(expected)}


def test_the_length_ratio_to_nothing_is_null_with_a_reason() -> None:
    found = load("length_ratio").compute(predictions=["a"], references=[" "])
    assert found == {"length_ratio": None, "length_ratio_reason": "no reference holds a token"}


def test_abstention_has_its_known_values() -> None:
    outputs, references = ["모릅니다.", "모릅니다", "서울"], ["모릅니다.", "서울", "모릅니다."]
    module = load("abstention")
    found = module.compute(predictions=outputs, references=references, markers=["모릅니다"])
    assert found == {"abstention_precision": 0.5, "abstention_recall": 0.5}
    none = module.compute(predictions=["x"], references=["y"], markers=["모릅니다"])
    assert none["abstention_recall"] is None
    assert none["abstention_recall_reason"] == "none should abstain"


def test_groundedness_has_its_known_values() -> None:
    module = load("groundedness")
    found = module.compute(
        predictions=["서울 2024", "東京", "x"],
        questions=["수도?", "首都?", "?"],
        passages=[["서울은 수도"], ["東京は", "日本"], []],
        markers=MARKERS,
    )
    assert (found["groundedness"], found["groundedness_records"]) == (0.75, 2)
    assert (found["unsupported"], found["unsupported_records"]) == (0.5, 2)
    empty = module.compute(predictions=["x"], questions=["?"], passages=[[]], markers=MARKERS)
    assert (empty["groundedness"], empty["groundedness_reason"]) == (None, "no passages were shown")


def test_citation_has_its_known_values() -> None:
    found = load("citation").compute(
        predictions=["서울 [2]", "日本の首都 [1]"],
        references=[["k"], ["j"]],
        passages=[["東京は日本の首都", "서울은 수도"], ["東京は日本の首都", "서울은 수도"]],
        documents=[["j", "k"], ["j", "k"]],
        markers=MARKERS,
    )
    assert (found["citation"], found["attribution"]) == (1.0, 1.0)


def test_retrieval_has_its_known_values() -> None:
    found = load("retrieval").compute(
        predictions=[["x", "서울"], ["x"]], references=[["서울"], ["gone"]], gold_passages=[1, 0]
    )
    assert (found["records"], found["records_without_gold_document"]) == (1, 1)
    assert (found["recall_at_1"], found["recall_at_5"], found["mrr"]) == (0.0, 1.0, 0.5)
    assert found["ndcg_at_10"] == pytest.approx(0.63093, abs=1e-5)


def test_every_metric_is_tried_here() -> None:
    others = {"length_ratio", "abstention", "groundedness", "citation", "retrieval"}
    assert METRICS.keys() == others | set(SCORES)
