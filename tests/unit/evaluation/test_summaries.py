"""Task summarize from evaluation to the bundle: scored against reference and text."""

from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.params import EvaluationParams
from tasks.scoring.summary_scores import score_summary, summary_scoring_sha256
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml
from tasks.task_types.summarize import SUMMARIZE
from tests.builders.packaging import package, packaging_params
from tests.builders.summarized import as_summarizer
from tests.unit.conftest import Tiny
from tests.unit.evaluation.conftest import TaskNight

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shared: dict[str, Any]
) -> TaskNight:
    root = tmp_path_factory.mktemp("summaries")
    return TaskNight.make(root, as_summarizer(tiny, root / "tiny"), shared)


def test_each_row_is_scored_against_its_reference_and_its_text(night: TaskNight) -> None:
    assert {row.system for row in night.rows} == {"base", "adapter", "student", "control"}
    for row in night.rows:
        assert row.mode == "closed_book"
        found = score_summary(row.output, row.question, row.reference)
        assert (row.rouge_1, row.rouge_2, row.rouge_l) == (
            found.rouge_1, found.rouge_2, found.rouge_l,
        )  # fmt: skip
        assert (row.compression, row.supported_terms) == (found.compression, found.supported_terms)
        assert (row.numbers_and_names, row.unsupported) == (
            found.numbers_and_names, found.unsupported,
        )  # fmt: skip
        assert (row.token_f1, row.exact_match, row.accuracy) == (None, None, None)


def test_metrics_are_those_of_summaries_and_rouge_l_decides(night: TaskNight) -> None:
    found = night.metrics
    assert found["task"] == {"name": "summarize"}
    assert found["primary"]["metric"] == "rouge_l"
    assert found["test_split"]["scoring_sha256"] == summary_scoring_sha256()
    for system, modes in found["systems"].items():
        rows = [row for row in night.rows if row.system == system]
        own = modes["closed_book"]
        assert set(SUMMARIZE.metrics) <= set(own)
        assert own["rouge_l"] == sum(row.score("rouge_l") for row in rows) / len(rows)
    assert found["asked"]["distractor_reason"] == "no answer of this task can abstain"
    assert found["abstention_shares"] == {}


def test_the_report_tells_of_faithfulness(night: TaskNight) -> None:
    text = (night.scored.report / "report.md").read_text()
    assert "Do summaries say what texts say?" in text
    assert "ROUGE-L (supported terms)" in text
    assert "label" not in text
    page = (night.scored.report / "report.html").read_text()
    assert "ROUGE-2" in page
    assert "numbers and names" in page


def test_the_bundle_answers_as_was_scored_and_its_card_tells_of_summaries(
    tmp_path: Path, night: TaskNight
) -> None:
    params = packaging_params(**night.shared)
    bundle = package(tmp_path, params, night.tiny, night.scored.index, night.scored.report)
    found = read_metrics(bundle.parent / "report")
    assert found["parity"] == {"adapter": 1.0, "student": 1.0}
    card = (bundle / "README.md").read_text()
    assert "Summaries of texts like those in its data" in card
    assert "summarization" in card
    assert "unsupported_share" in card


def test_a_reasoning_step_before_a_summary_is_refused() -> None:
    params = EvaluationParams.model_validate(read_yaml(Path("params/evaluation.yaml")))
    variants = params.variants.model_copy(update={"compared": ["zero_shot", "reasoning"]})
    with pytest.raises(ConfigError, match="task summarize asks for a summary alone"):
        params.model_copy(update={"variants": variants}).of_task(SUMMARIZE)
