"""`nightloom review` on a real MLflow store: what waits, in which order, and what people settle."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.review import fill_review_queue, other_answers
from tasks.feedback.exchanges import Exchange, Feedback
from tasks.feedback.review_queue import ReviewQueue
from tasks.feedback.traces import ServedTraces
from tasks.feedback.worth import ABSTAINED, MARKED_BAD, OTHER
from tasks.ingestion.sources.feedback import FeedbackSource
from tasks.services.stores import Stores
from tests.builders import served_questions

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


def exchange(number: int, answer: str, question: str = "What does f return?") -> Exchange:
    asked = NOW - timedelta(hours=number)
    return served_questions.exchange(
        number, question, system="Be short.", answer=answer, asked=asked
    )


@pytest.fixture
def checkout(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with nothing but what the command needs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "params").mkdir()
    for name in ("evaluation.yaml", "paths.yaml", "serving.yaml"):
        shutil.copy2(Path("params") / name, tmp_path / "params")
    (tmp_path / ".nightloom").mkdir()
    shutil.copyfile(empty_store, tmp_path / ".nightloom" / "mlflow.db")
    return tmp_path


@pytest.fixture
def stores(checkout: Path) -> Stores:
    home = checkout / ".nightloom"
    return Stores(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")


@pytest.fixture
def traces(stores: Stores) -> ServedTraces:
    """Four questions: an old one, one unanswered, one marked bad, one marked good."""
    found = ServedTraces(stores)
    for number, answer in (
        (4, "f returns one."),
        (3, "I don't know."),
        (2, "2"),
        (1, "f returns one."),
    ):
        found.write(exchange(number, answer))
    found.add(Feedback(completion=exchange(2, "").completion, rating="bad"))
    found.add(Feedback(completion=exchange(1, "").completion, rating="good"))
    return found


def numbers(found: Any) -> list[tuple[int, str]]:
    return [
        (int(one.completion.removeprefix("chatcmpl-"), 16), one.reason) for one in found.waiting
    ]


def test_the_queue_holds_what_is_most_worth_looking_at_and_nothing_that_is_settled(
    checkout: Path, stores: Stores, traces: ServedTraces
) -> None:
    found = fill_review_queue(checkout, stores, 50)
    assert (found.kept, found.page) == (4, None)
    assert numbers(found) == [(2, MARKED_BAD), (3, ABSTAINED), (4, OTHER)]
    by_trace = {one.trace: one.exchange.completion for one in traces.questions()}
    waiting = [by_trace[trace] for trace in ReviewQueue(stores).pending()]
    assert waiting == [one.completion for one in found.waiting]

    traces.add(Feedback(completion=exchange(2, "").completion, answer="f returns one."))
    assert numbers(fill_review_queue(checkout, stores, 1)) == [(3, ABSTAINED)]
    assert len(ReviewQueue(stores).pending()) == 1


def test_only_what_people_called_right_is_taken_in_as_rows(
    stores: Stores, traces: ServedTraces
) -> None:
    traces.add(Feedback(completion=exchange(3, "").completion, answer="It returns one."))
    rows = [found.line.row for found in FeedbackSource(stores).read("records")]
    assert [(row["id"], row["slice"]) for row in rows if row] == [
        (exchange(3, "").completion, "feedback"),
        (exchange(1, "").completion, "feedback"),
    ]
    assert [row["messages"][-1]["content"] for row in rows if row] == [
        "It returns one.",
        "f returns one.",
    ]
    assert list(FeedbackSource(stores).read("documents")) == []


def test_what_a_version_answers_otherwise_is_found_the_most_different_first(
    stores: Stores, traces: ServedTraces
) -> None:
    by_number = {int(one.exchange.completion[-8:], 16): one for one in traces.questions()}
    traces.add_other_answer(by_number[4].trace, "adapter-2", "f returns two.")
    traces.add_other_answer(by_number[3].trace, "adapter-2", "Nothing.")
    traces.add_other_answer(by_number[1].trace, "student-2", "Nothing.")
    found = other_answers(stores, "adapter", 2, 10)
    assert [one.answer for one in found] == ["Nothing.", "f returns two."]
    assert other_answers(stores, "adapter", 3, 10) == []


def test_the_command_shows_the_first_and_says_where_the_queue_is(
    checkout: Path, traces: ServedTraces
) -> None:
    traces.write(exchange(5, "I don't know [/bold] \x1b[31m", "[red]what[/blue]?"))
    done = CliRunner().invoke(app, ["review", "--root", str(checkout)])
    assert done.exit_code == 0, done.stderr
    assert "4 of 5 served questions wait for a person" in done.stdout
    assert "[red]what[/blue]?" in done.stdout
    assert "\x1b" not in done.stdout
    assert "nightloom up" in done.stdout
    told = CliRunner().invoke(app, ["review", "--root", str(checkout), "--json"])
    assert json.loads(told.stdout)["waiting"][0]["reason"] == MARKED_BAD


def test_where_nothing_is_kept_the_command_says_what_keeps_it(checkout: Path) -> None:
    done = CliRunner().invoke(app, ["review", "--root", str(checkout)])
    assert done.exit_code == 0, done.stderr
    assert "`nightloom serve --log` keeps them" in done.stdout
