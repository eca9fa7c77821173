"""What a night says of the last day's served questions."""

import json
import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.answering.question_shift import chosen
from tasks.feedback.exchanges import Exchange
from tasks.feedback.traces import ServedTraces
from tasks.orchestration import question_shift as module
from tasks.orchestration.question_shift import ShiftPlace, question_shift, told
from tasks.records.schema import Message, Record, write_records
from tasks.services.stores import Stores
from tasks.stage.params import read_yaml
from tests.builders import served_questions
from tests.unit.feedback.test_worth import MARKERS, served

NOW = datetime.now(UTC)


def exchange(number: int, question: str, *, hours: int = 1, answer: str = "One.") -> Exchange:
    asked = NOW - timedelta(hours=hours)
    return served_questions.exchange(number, question, passages=(), answer=answer, asked=asked)


@pytest.fixture
def place(tiny: Any, tmp_path: Path) -> ShiftPlace:
    """A set that was trained on, and the tiny embedder."""
    curated = tmp_path / "curated"
    curated.mkdir()
    turns = [
        (Message("user", f"What does mod.f{n} do?"), Message("assistant", "It.")) for n in range(9)
    ]
    records = [Record(f"r{n}", two, (), "", "g", "", "", "i") for n, two in enumerate(turns)]
    write_records(curated / "train.jsonl", records)
    shutil.copytree("params", tmp_path / "params")
    return ShiftPlace(tmp_path, curated, tiny.embedder, tiny.store, tmp_path / "scratch")


@pytest.fixture
def stores(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("shift"))
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")


@pytest.mark.slow
def test_a_night_says_how_far_the_last_days_questions_are(
    stores: Stores, place: ShiftPlace
) -> None:
    assert question_shift.fn(stores, place) is None
    traces = ServedTraces(stores)
    for number in range(4):
        answer = "I don't know." if number == 3 else "It."
        traces.write(exchange(number, f"What does mod.f{number} do?", answer=answer))
    traces.write(exchange(9, "an old one", hours=30))
    said = question_shift.fn(stores, place)
    assert said is not None
    assert said.startswith("4 questions were served in the last day, 25% of them without an answer")
    near = float(said.partition("training data is ")[2].split()[0])
    assert 0 <= near < 0.3
    assert list(place.scratch.iterdir()) == []


def test_a_distance_above_the_bound_is_a_warning() -> None:
    two = [served("one"), served("two", answer="I don't know that.")]
    assert told(two, 0.2, MARKERS, None).endswith("training data is 0.200 (0 is alike)")
    assert told(two, 0.2, MARKERS, 0.1).startswith("warning of question shift: 2 questions")
    assert told(two, 0.2, MARKERS, 0.3).startswith("2 questions were served")
    assert told(two, None, MARKERS, 0.1).endswith("could not be measured")


@pytest.mark.slow
def test_an_embedder_that_is_not_there_stops_no_night(
    stores: Stores, place: ShiftPlace, tmp_path: Path
) -> None:
    ServedTraces(stores).write(exchange(1, "What?"))
    manifest = tmp_path / "gone.json"
    manifest.write_text(json.dumps(json.loads(place.embedder.read_text()) | {"digest": "0" * 64}))
    gone = ShiftPlace(place.root, place.curated, manifest, place.store, place.scratch)
    said = question_shift.fn(stores, gone)
    assert said is not None
    assert "could not be measured" in said


def test_texts_are_chosen_by_their_hash_and_once_each() -> None:
    texts = [f"q{number}" for number in range(50)]
    assert chosen(texts, 7) == chosen([*reversed(texts), *texts], 7)
    assert len(set(chosen(texts, 7))) == 7
    assert read_yaml(Path("params/serving.yaml"))["max_question_distance"] is None
