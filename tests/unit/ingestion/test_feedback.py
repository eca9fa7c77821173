"""The source `feedback`: a night takes in what people called right, from a real MLflow store."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.feedback.exchanges import Exchange, Feedback
from tasks.feedback.traces import ServedTraces
from tasks.ingestion.intakes import TakenIn, take_in
from tasks.ingestion.params import IngestionParams
from tasks.records.schema import Record
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml
from tasks.validation.features import parse_record
from tests.builders import served_questions
from tests.builders.ingestion import current_rows, files_entry, ingestion_params

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FEEDBACK = {"name": "feedback", "kind": "feedback"}


def exchange(number: int, answer: str) -> Exchange:
    return served_questions.exchange(
        number,
        f"What does f{number} return?",
        system="Be short.",
        passages=(),
        answer=answer,
        asked=datetime.now(UTC) - timedelta(hours=9 - number),
    )


class Nights:
    """Nights on one store and one folder."""

    def __init__(self, root: Path, stores: Stores) -> None:
        self.root, self.raw, self.stores = root, root / "raw", stores
        self._count = 0

    def take(self, *entries: dict[str, Any]) -> TakenIn:
        self._count += 1
        now = NOW + timedelta(days=self._count)
        params = ingestion_params(*entries)
        return take_in(params, self.raw, now, accepted=self.root / "none", stores=self.stores)

    def records(self) -> list[Record]:
        current = current_rows(self.raw).rows()
        return [
            parse_record(
                row.line.row or {}, row.intake.name, row.source, is_feedback=row.is_feedback
            )
            for row in current
        ]


@pytest.fixture
def nights(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Nights(tmp_path, Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts"))


def test_a_night_takes_in_what_people_called_right_and_nothing_else(nights: Nights) -> None:
    assert nights.take(FEEDBACK) == TakenIn(None, {})
    traces = ServedTraces(nights.stores)
    for number, answer in ((1, "One."), (2, "Two."), (3, "Three."), (4, "I don't know.")):
        traces.write(exchange(number, answer))
    assert nights.take(FEEDBACK).intake is None
    traces.add(Feedback(completion=exchange(1, "").completion, rating="good"))
    traces.add(Feedback(completion=exchange(2, "").completion, rating="bad"))
    traces.add(Feedback(completion=exchange(4, "").completion, answer="It returns four."))

    taken = nights.take(FEEDBACK).intake

    assert taken is not None
    assert (taken.records, taken.documents, taken.faulty, taken.unnamed) == (2, 0, 0, 0)
    assert taken.unread == {"records": {}, "documents": {}}
    assert [(r.id, r.question, r.answer, r.slice) for r in nights.records()] == [
        (exchange(1, "").completion, "What does f1 return?", "One.", "feedback"),
        (exchange(4, "").completion, "What does f4 return?", "It returns four.", "feedback"),
    ]
    assert all(record.is_feedback for record in nights.records())
    assert [record.rejected for record in nights.records()] == ["", "I don't know."]
    assert nights.take(FEEDBACK).intake is None


def test_a_later_correction_replaces_an_earlier_one_and_deleted_traces_leave_their_rows(
    nights: Nights,
) -> None:
    traces = ServedTraces(nights.stores)
    traces.write(exchange(1, "One."))
    traces.write(exchange(2, "Two."))
    for number in (1, 2):
        traces.add(Feedback(completion=exchange(number, "").completion, rating="good"))
    nights.take(FEEDBACK)
    traces.add(Feedback(completion=exchange(2, "").completion, answer="It returns two."))

    again = nights.take(FEEDBACK).intake

    assert again is not None
    assert again.records == 1
    assert [record.answer for record in nights.records()] == ["One.", "It returns two."]
    found = [question.trace for question in traces.questions()]
    client, experiment = traces._client, traces._experiment
    client.delete_traces(experiment, trace_ids=found)
    assert nights.take(FEEDBACK).intake is None
    assert len(nights.records()) == 2


def test_feedback_comes_beside_other_sources_as_a_slice_of_its_own(nights: Nights) -> None:
    row = {"id": "a", "question": "Why?", "answer": "So.", "slice": "hard"}
    (nights.root / "faq.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    faq = files_entry(nights.root, "faq.jsonl", name="faq")
    reviews = FEEDBACK | {"name": "reviews"}
    first = nights.take(faq, reviews).intake
    assert first is not None
    assert [source.records for source in first.sources] == [1, 0]
    traces = ServedTraces(nights.stores)
    traces.write(exchange(1, "One."))
    traces.add(Feedback(completion=exchange(1, "").completion, rating="good"))

    second = nights.take(faq, reviews).intake

    assert second is not None
    assert [(source.name, source.records) for source in second.sources] == [
        ("faq", 0),
        ("reviews", 1),
    ]
    assert [(record.slice, record.is_feedback) for record in nights.records()] == [
        ("faq.hard", False),
        ("reviews.feedback", True),
    ]


def test_feedback_is_known_by_how_it_was_read_not_by_what_a_row_says(nights: Nights) -> None:
    name = exchange(1, "").completion
    row = {"id": name, "question": "Why?", "answer": "So.", "slice": "feedback",
           "source": "feedback", "is_feedback": True}  # fmt: skip
    (nights.root / "own.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    nights.take(files_entry(nights.root, "own.jsonl", name="feedback"))

    [record] = nights.records()

    assert (record.id, record.slice, record.is_feedback) == (name, "feedback", False)


def test_a_question_is_in_one_split_however_often_it_is_asked(nights: Nights) -> None:
    """In that of a row without an id which asks the same, too."""
    row = {"question": "what does f1  return?", "answer": "It returns one."}
    (nights.root / "own.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    own = files_entry(nights.root, "own.jsonl", name="own")
    traces = ServedTraces(nights.stores)
    for number, answer in ((1, "One."), (7, "Two.")):
        said = exchange(number, answer)
        traces.write(said.model_copy(update={"turns": exchange(1, "").turns}))
        traces.add(Feedback(completion=said.completion, rating="good"))

    nights.take(own, FEEDBACK)

    groups = [record.group for record in nights.records()]
    assert len(groups) == 3
    assert len(set(groups)) == 1


def test_without_mlflow_s_stores_feedback_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source feedback: feedback lies in MLflow"):
        take_in(ingestion_params(FEEDBACK), tmp_path / "raw", NOW, accepted=tmp_path / "none")


def test_a_section_of_feedback_is_refused_since_nothing_reads_it() -> None:
    with pytest.raises(ValueError, match="feedback"):
        ingestion_params(FEEDBACK | {"feedback": {"days": 3}})


def test_the_example_of_the_feedback_guide_is_valid_params() -> None:
    text = Path("docs/guides/feedback.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    content = read_yaml(Path("params/ingestion.yaml")) | yaml.safe_load(block)
    params = IngestionParams.model_validate(content)
    assert [source.kind for source in params.sources] == ["python_docs", "feedback"]
