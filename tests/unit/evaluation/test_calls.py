"""Task tools from evaluation to the bundle: calls scored by name and arguments, and served."""

from pathlib import Path
from typing import Any

import pytest

from tasks.answering.loading import load_answerer
from tasks.evaluation.call_metrics import call_metrics, calls_in_words
from tasks.evaluation.params import EvaluationParams
from tasks.records.predictions import Prediction
from tasks.records.schema import Message, read_records
from tasks.records.tool_text import CALL, offered
from tasks.scoring.call_scores import call_scoring_sha256, score_calls
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml
from tasks.task_types.tools import TOOLS
from tests.builders.packaging import package, packaging_params
from tests.builders.serving import budget
from tests.builders.tool_calls import as_caller
from tests.unit.conftest import Tiny
from tests.unit.evaluation.conftest import TaskNight

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shared: dict[str, Any]
) -> TaskNight:
    root = tmp_path_factory.mktemp("tools")
    return TaskNight.make(root, as_caller(tiny, root / "tiny"), shared)


def test_each_turn_is_scored_by_its_calls_or_its_words(night: TaskNight) -> None:
    records = {item.id: item for item in read_records(night.tiny.curated / "test.jsonl")}
    assert {row.mode for row in night.rows} >= {"closed_book", "retrieved", "oracle"}
    for row in night.rows:
        found = score_calls(row.output, row.reference, offered(records[row.record].messages))
        assert (row.turn_score, row.call_match) == (found.turn_score, found.call_match)
        assert (row.words_f1, row.calls) == (found.words_f1, found.calls)
        assert (row.token_f1, row.exact_match, row.accuracy) == (None, None, None)


def test_metrics_are_those_of_calls_and_the_turns_score_decides(night: TaskNight) -> None:
    found = night.metrics
    assert found["task"] == {"name": "tools"}
    assert found["primary"]["metric"] == "turn_score"
    assert found["test_split"]["scoring_sha256"] == call_scoring_sha256()
    for system, modes in found["systems"].items():
        for mode, own in modes.items():
            rows = [row for row in night.rows if (row.system, row.mode) == (system, mode)]
            assert set(TOOLS.metrics) <= set(own)
            assert own["turn_score"] == sum(row.score("turn_score") for row in rows) / len(rows)
    assert found["asked"]["distractor_reason"] == "no answer of this task can abstain"


def test_the_report_tells_of_calls(night: TaskNight) -> None:
    text = (night.scored.report / "report.md").read_text()
    assert "Are the right tools called?" in text
    assert "turn score (call match)" in text
    assert "needless calls" in (night.scored.report / "report.html").read_text()


def rows_of(*scores: dict[str, Any]) -> list[Prediction]:
    plain = {
        "system": "adapter", "mode": "closed_book", "record": "r", "slice": "all", "question": "q",
        "reference": "", "output": "", "prompt_sha256": "", "retrieved": (), "exact_match": None,
        "token_f1": None, "rouge_l": None, "chrf": None, "length_ratio": None,
        "groundedness": None, "unsupported": 0, "attribution": None, "citation": None,
        "new_tokens": 1, "is_cut": False, "broken_calls": 0, "unoffered_calls": 0,
    }  # fmt: skip
    return [Prediction(**plain | one) for one in scores]


def test_what_is_wrong_with_calls_is_counted_apart() -> None:
    right = {"turn_score": 1.0, "call_match": 1.0, "name_match": 1.0, "calls": 1}
    missed = {"turn_score": 0.0, "call_match": 0.0, "name_match": 0.0, "calls": 0}
    broken = missed | {"calls": 2, "broken_calls": 1, "unoffered_calls": 1}
    needless = {"turn_score": 0.0, "words_f1": 0.0, "calls": 1}
    words = {"turn_score": 0.5, "words_f1": 0.5, "calls": 0}
    found = call_metrics(rows_of(right, missed, broken, needless, words))
    assert found["call_match"] == pytest.approx(1 / 3)
    assert found["missed_calls"] == pytest.approx(1 / 3)
    assert (found["needless_calls"], found["words_f1"]) == (0.5, 0.25)
    assert (found["broken_call_share"], found["unoffered_call_share"]) == (0.25, 0.25)
    assert found["invalid_call_share"] == 0.5
    told = {"primary": {"mode": "m"}, "systems": {"adapter": {"m": found}}}
    assert "3 records ask for calls and 2 for words" in calls_in_words(told)
    assert "calls needlessly in 50.0%" in calls_in_words(told)


def test_what_cannot_be_told_is_null_with_a_reason() -> None:
    words = {"turn_score": 0.5, "words_f1": 0.5, "calls": 0}
    found = call_metrics(rows_of(words))
    for name in ("call_match", "missed_calls", "invalid_call_share"):
        assert found[name] is None
        assert found[f"{name}_reason"]
    called = {"turn_score": 1.0, "call_match": 1.0, "name_match": 1.0, "calls": 1}
    assert call_metrics(rows_of(called))["needless_calls"] is None
    for row in (words, called):
        told = {"primary": {"mode": "m"}, "systems": {"a": {"m": call_metrics(rows_of(row))}}}
        assert calls_in_words(told)


def test_the_bundle_answers_as_was_scored_and_begins_where_a_call_is_required(
    tmp_path: Path, night: TaskNight
) -> None:
    from tasks.serving.batcher import Batcher
    from tests.builders.serving import Ear

    params = packaging_params(**night.shared)
    bundle = package(tmp_path, params, night.tiny, night.scored.index, night.scored.report)
    assert read_metrics(bundle.parent / "report")["parity"] == {"adapter": 1.0, "student": 1.0}
    card = (bundle / "README.md").read_text()
    assert "Calls of functions" in card
    assert "needless_calls" in card
    answerer = load_answerer(bundle, night.tiny.store, "adapter")
    assert answerer.calls_tools
    turns = [[Message("user", "What is the weather in Lima?")]]
    [plain], [begun] = answerer.prepare(turns), answerer.prepare(turns, None, CALL)
    assert begun.prompt[: len(plain.prompt)] == plain.prompt
    ids = list(begun.prompt[len(plain.prompt) :])
    assert answerer.language_model.tokenizer.decode(ids) == CALL
    engine = Batcher(answerer, budget())
    ears = [Ear(engine, "What is the weather in Lima?", begins=begins) for begins in ("", CALL)]
    replies = [ear.hear() for ear in ears]
    assert replies[1].begun.prompt_tokens == replies[0].begun.prompt_tokens + len(ids)
    engine.close()
    engine.join()


def test_examples_and_reasoning_before_a_call_are_refused() -> None:
    params = EvaluationParams.model_validate(read_yaml(Path("params/evaluation.yaml")))
    for compared in ("reasoning", "few_shot"):
        variants = params.variants.model_copy(update={"compared": ["zero_shot", compared]})
        with pytest.raises(ConfigError, match=compared):
            params.model_copy(update={"variants": variants}).of_task(TOOLS)
