"""The data's language is found by its script; answers abstain in it, and are prompted in it."""

from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.params import EvaluationParams
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_template
from tasks.records.language import data_language, find_language
from tasks.records.schema import Message, Record, write_records
from tasks.scoring.abstentions import abstentions_for, all_abstentions
from tasks.scoring.answer_scores import abstains
from tasks.scoring.identity import scoring_sha256
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml
from tests.builders.korean import record as korean_record
from tests.builders.korean import write_korean
from tests.unit.tokenization.test_tokenization import tokenize

MARKERS = ["I don't know", "I do not know"]


def asked(question: str, answer: str = "") -> Record:
    turns = (Message("user", question), Message("assistant", answer))
    return Record("r", turns, (), "s", "r", "", "", "n1")


def test_korean_is_found_under_latin_terms_and_other_languages_are_not() -> None:
    assert find_language([korean_record(n) for n in range(5)]) == "ko"
    terms = asked("json.dumps 함수는 무엇을 반환하나요?", "JSON 문자열을 반환합니다.")
    assert find_language([terms]) == "ko"
    for other in ("What is 김치?", "東京は日本の首都です", "Was ist das?", "12 + 3 = ?"):
        assert find_language([asked(other)]) == "en"
    assert find_language([]) == "en"


def test_a_mixed_set_is_in_the_language_of_most_of_its_records() -> None:
    korean, english = asked("수도는 어디인가요?"), asked("Where is it?")
    assert find_language([korean, korean, english]) == "ko"
    assert find_language([korean, english]) == "en"


def test_a_named_language_counts_whatever_the_data_are_written_in(tmp_path: Path) -> None:
    write_records(tmp_path / "train.jsonl", [korean_record(1)])
    assert data_language("auto", tmp_path) == "ko"
    assert data_language("en", tmp_path) == "en"


@pytest.fixture
def params() -> EvaluationParams:
    return EvaluationParams.model_validate(read_yaml(Path("params/evaluation.yaml")))


def test_english_data_are_scored_as_before(params: EvaluationParams) -> None:
    assert params.in_language("en").abstentions == MARKERS
    assert scoring_sha256(params.in_language("en").abstentions) == scoring_sha256(MARKERS)


def test_korean_answers_abstain_in_korean_and_in_english(params: EvaluationParams) -> None:
    markers = params.in_language("ko").abstentions
    assert markers[0] == "모르겠습니다"
    for answer in ("모르겠습니다.", "잘 모르겠어요", "알 수 없습니다", "I don't know."):
        assert abstains(answer, markers)
    assert not abstains("사과입니다.", markers)
    assert not abstains("모르겠습니다.", params.in_language("en").abstentions)


def test_a_language_without_a_list_has_the_usual_one() -> None:
    assert abstentions_for("de", MARKERS, {"ko": ["모릅니다"]}) == MARKERS
    assert abstentions_for("ko", MARKERS, {"ko": ["모릅니다", *MARKERS]}) == ["모릅니다", *MARKERS]


def test_served_answers_abstain_in_any_language() -> None:
    markers = all_abstentions(read_yaml(Path("params/evaluation.yaml")))
    assert abstains("모르겠습니다", markers)
    assert abstains("I don't know", markers)
    assert all_abstentions({"abstentions": MARKERS}) == MARKERS  # params of before


def test_korean_data_are_prompted_in_korean_and_a_named_language_or_template_counts(
    tmp_path: Path, tiny: Any, prompting: Any
) -> None:
    curated = write_korean(tmp_path / "curated", documents=24, questions=12)
    found = tokenize(tmp_path / "1", tiny, prompting, curated)
    assert "짧게 답하세요" in read_template(found.tokens / PROMPT).text
    assert read_metrics(found.tokenization_report)["template"] == "answer.ko.jinja"
    english = prompting.model_copy(update={"language": "en"})
    named = tokenize(tmp_path / "2", tiny, english, curated)
    assert "Answer in few words" in read_template(named.tokens / PROMPT).text
    usual = tokenize(tmp_path / "3", tiny, prompting, tiny.curated)
    assert read_metrics(usual.tokenization_report)["template"] == "answer.jinja"
