"""Task classify from evaluation to serving: labels alone are said, and scored as labels."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.answering.loading import load_answerer
from tasks.answering.release_bundle import BundleSettings
from tasks.evaluation import rescoring
from tasks.evaluation.linear_baseline import linear_predictions
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.requests import Request
from tasks.records.predictions import read_predictions
from tasks.records.schema import Message, read_records
from tasks.scoring.label_scores import label_scoring_sha256
from tasks.serving.batcher import Batcher
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml
from tasks.task_types.classify import CLASSIFY, LINEAR
from tests.builders.labelled import LABELS, as_classifier
from tests.builders.packaging import package, packaging_params
from tests.builders.serving import Ear, budget
from tests.unit.conftest import Tiny
from tests.unit.evaluation.conftest import TaskNight

pytestmark = pytest.mark.slow


def classified(root: Path, tiny: Tiny, shared: dict[str, Any], **changes: Any) -> TaskNight:
    made = as_classifier(tiny, root / "tiny", **{"constrained": True, "test_label": None} | changes)
    return TaskNight.make(root, made, shared)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shared: dict[str, Any]) -> Any:
    """One test record has a label that was never learned."""
    return classified(tmp_path_factory.mktemp("labels"), tiny, shared, test_label="dispute")


def test_every_system_says_labels_alone_and_how_likely_it_finds_them(night: TaskNight) -> None:
    assert {row.output for row in night.rows} <= set(LABELS)
    assert {row.system for row in night.rows} == {
        "base", "adapter", "student", "control", LINEAR,
    }  # fmt: skip
    for row in night.rows:
        assert row.mode == "closed_book"
        assert row.accuracy == float(row.output == row.reference)
        assert row.probability is not None
        assert 0 < row.probability <= 1
        assert (row.token_f1, row.exact_match, row.groundedness) == (None, None, None)


def test_metrics_are_those_of_labels_and_none_gives_half_credit(night: TaskNight) -> None:
    found = night.metrics
    assert found["task"] == {"name": "classify", "labels": 4, "constrained": True}
    assert found["primary"]["metric"] == "accuracy"
    assert found["test_split"]["scoring_sha256"] == label_scoring_sha256()
    for system, modes in found["systems"].items():
        rows = [row for row in night.rows if row.system == system]
        own = modes["closed_book"]
        assert set(own) == set(CLASSIFY.metrics)
        assert own["accuracy"] == sum(row.score("accuracy") for row in rows) / len(rows)
        assert own["outside_labels"] == 0
        assert 0 <= own["ece"] <= 1
    assert found["asked"]["distractor_reason"] == "no answer of this task can abstain"
    assert found["abstention_shares"] == {}
    assert {"adapter-base", "adapter-linear"} <= set(found["comparisons"])


def test_a_label_that_was_never_learned_is_scored_as_wrong(night: TaskNight) -> None:
    unlearned = [row for row in night.rows if row.reference == "dispute"]
    assert Counter(row.accuracy for row in unlearned) == {0.0: 5}
    labels = json.loads((night.scored.report / "labels.json").read_text())
    assert labels["adapter"]["labels"]["dispute"]["support"] == 1
    assert labels["adapter"]["confusion"]["order"] == [*LABELS, "dispute"]


def test_the_report_shows_labels_and_says_plainly_which_model_is_better(night: TaskNight) -> None:
    text = (night.scored.report / "report.md").read_text()
    assert "Is the adapter better than a linear model of words?" in text
    assert "The linear model is better than the adapter: accuracy" in text
    assert "## By label" in text
    assert "abstains" not in text
    page = (night.scored.report / "report.html").read_text()
    assert 'id="labels"' in page
    assert 'id="abstention"' not in page
    for picture in ("confusion", "calibration"):
        assert (night.scored.report / f"{picture}.png").stat().st_size > 1000
        assert f"![{picture}]" in text


def requests(tiny: Tiny, split: str) -> list[Request]:
    records = read_records(tiny.curated / f"{split}.jsonl")
    return [Request(record, "closed_book", (), record.answer) for record in records]


def test_the_linear_baseline_learns_words_and_is_the_same_each_time(night: TaskNight) -> None:
    train = read_records(night.tiny.curated / "train.jsonl")
    found = linear_predictions(train, requests(night.tiny, "train"))
    assert {row.accuracy for row in found} == {1.0}
    assert found == linear_predictions(train, requests(night.tiny, "train"))


def test_a_linear_model_of_one_label_is_refused_by_name(night: TaskNight) -> None:
    train = read_records(night.tiny.curated / "train.jsonl")
    alike = [record for record in train if record.answer == train[0].answer]
    with pytest.raises(DataError, match="no linear model can be trained on the 3 training records"):
        linear_predictions(alike, requests(night.tiny, "test"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, night: TaskNight) -> Path:
    params = packaging_params(**night.shared)
    root = tmp_path_factory.mktemp("packaged")
    return package(root, params, night.tiny, night.scored.index, night.scored.report)


def test_the_bundle_answers_as_was_scored_and_its_card_tells_of_labels(bundle: Path) -> None:
    report = bundle.parent / "report"
    found = read_metrics(report)
    assert found["parity"] == {"adapter": 1.0, "student": 1.0}
    assert found["parity_scores"]["adapter"]["metric"] == "accuracy"
    card = (bundle / "README.md").read_text()
    assert "One label a text, of 4: `card`, `card lost`, `refund`" in card
    assert "text-classification" in card
    assert "| linear | closed_book |" in card


def test_what_is_served_says_labels_alone_as_they_come(bundle: Path, night: TaskNight) -> None:
    answerer = load_answerer(bundle, night.tiny.store, "adapter")
    asked = [f"please, thing {number}" for number in range(20)]
    whole = answerer.answer([[Message("user", text)] for text in asked])
    assert {answer.text for answer in whole} <= set(LABELS)
    engine = Batcher(answerer, budget())
    ears = [Ear(engine, text) for text in asked]
    replies = [ear.hear() for ear in ears]
    engine.close()
    engine.join()
    assert [reply.text for reply in replies] == [answer.text for answer in whole]
    assert ["".join(ear.pieces) for ear in ears] == [answer.text for answer in whole]
    assert not any(reply.is_cut for reply in replies)


def test_a_champion_is_scored_again_by_its_own_labels(
    bundle: Path, night: TaskNight, tmp_path: Path
) -> None:
    settings = read_yaml(Path("params/evaluation.yaml")) | {"records": 8, "resamples": 200}
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    rescoring.run(
        rescoring.Params.model_validate(
            {"evaluation": settings, "compute": BundleSettings.read(bundle).compute}
        ),
        rescoring.Paths(
            curated=night.tiny.curated,
            model_store=night.tiny.store,
            bundle=bundle,
            scratch=tmp_path / "scratch",
            rescore_report=tmp_path / "report",
        ),
    )
    found = read_metrics(tmp_path / "report")
    assert found["primary"] == {"mode": "closed_book", "metric": "accuracy"}
    assert found["test_split"] == night.metrics["test_split"]
    again = read_predictions(tmp_path / "report" / "predictions.parquet")
    then = {row.record: row.output for row in night.rows if row.system == "adapter"}
    assert {row.record: row.output for row in again} == then


def test_answers_that_are_free_may_be_no_label_and_are_counted(
    tmp_path: Path, tiny: Tiny, shared: dict[str, Any]
) -> None:
    night = classified(tmp_path, tiny, shared, constrained=False)
    own = night.metrics["systems"]["adapter"]["closed_book"]
    rows = [row for row in night.rows if row.system == "adapter"]
    outside = [row for row in rows if row.output not in LABELS]
    assert own["outside_labels"] == len(outside) / len(rows) > 0
    assert own["ece"] is None
    assert "free" in own["ece_reason"]
    assert {row.accuracy for row in outside} == {0.0}


def test_a_reasoning_step_before_a_label_is_refused() -> None:
    params = EvaluationParams.model_validate(read_yaml(Path("params/evaluation.yaml")))
    variants = params.variants.model_copy(update={"compared": ["zero_shot", "reasoning"]})
    with pytest.raises(ConfigError, match="names reasoning; task classify asks for a label"):
        params.model_copy(update={"variants": variants}).of_task(CLASSIFY)


def test_rows_of_answers_in_words_are_written_as_before(tmp_path: Path, night: TaskNight) -> None:
    from pyarrow import parquet

    from tasks.records.predictions import write_predictions

    plain = replace(night.rows[0], accuracy=None, probability=None, token_f1=0.5)
    write_predictions(tmp_path / "plain.parquet", [plain])
    assert "accuracy" not in parquet.read_schema(tmp_path / "plain.parquet").names
    assert read_predictions(tmp_path / "plain.parquet") == [plain]
