"""Served questions in a real MLflow store: kept masked, marked by people, and deleted again."""

import os
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.feedback.exchanges import Exchange, Feedback, LogPlace, ShownPassage
from tasks.feedback.params import LogParams
from tasks.feedback.review_queue import ReviewQueue
from tasks.feedback.traces import ServedTraces
from tasks.feedback.writer import Writer, read_writer
from tasks.services.stores import Stores
from tasks.services.traces import Traces

NOW = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)
BOUNDS = LogParams(days=30, megabytes=500)


def exchange(question: str = "What does f do?", *, asked: datetime = NOW) -> Exchange:
    return Exchange(
        completion=f"chatcmpl-{uuid4().hex}",
        model="adapter",
        version=3,
        alias="production",
        turns=(("system", "Be short."), ("user", question)),
        passages=(ShownPassage(id="d#0", text="f returns one.", score=0.5),),
        answer="It returns one.",
        is_cut=False,
        asked=asked,
        seconds=1.5,
    )


@pytest.fixture
def stores(empty_store: Path, tmp_path: Path) -> Stores:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")


@pytest.fixture
def traces(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> ServedTraces:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return ServedTraces(stores)


@pytest.fixture
def writer(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    params = tmp_path / "params"
    params.mkdir()
    for name in ("curation.yaml", "serving.yaml"):
        shutil.copy2(Path("params") / name, params)
    place = LogPlace(
        tracking_uri=stores.tracking_uri, artifacts=stores.location, params=str(params)
    )
    return read_writer(place)


def test_a_store_that_is_opened_is_no_choice_of_the_users(
    traces: ServedTraces, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night looks for its stores again later on; MLflow's variable would be the user's."""
    assert "MLFLOW_TRACKING_URI" not in os.environ
    traces.write(exchange())
    ReviewQueue(stores)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    ServedTraces(stores)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:1"


def test_traces_are_deleted_by_what_they_say_and_by_whose_answers_they_are(
    traces: ServedTraces,
) -> None:
    said = ["Zorblax ❝sang❞ & <slept>.", "It returns two.", '나는 "새"를 보았다.']
    for number, text in enumerate(said):
        traces.write(
            exchange(f"{number}?").model_copy(update={"answer": text, "version": number + 1})
        )
    told = Traces(frozenset({said[0], said[2]}), frozenset())
    assert traces.delete_where(lambda _, content: told.in_bytes(content, ids=False)) == 2
    [left] = traces.questions()
    assert left.exchange.answer == said[1]
    assert traces.delete_where(lambda completion, _: completion == left.exchange.completion) == 1

    for hour, version in enumerate((1, 1, 2)):
        one = exchange(asked=NOW + timedelta(hours=hour))
        traces.write(one.model_copy(update={"version": version}))
    assert traces.delete_answers({"adapter-1": NOW + timedelta(minutes=30), "student-2": NOW}) == 1
    left = [(x.exchange.version, x.exchange.asked.hour) for x in traces.questions()]
    assert left == [(1, 3), (2, 5)]


def test_an_exchange_comes_back_as_it_was_kept(traces: ServedTraces) -> None:
    first, second = exchange("one?"), exchange("둘은 무엇인가요?", asked=NOW + timedelta(hours=1))
    for one in (first, second):
        traces.write(one)
    found = list(traces.questions())
    assert [item.exchange for item in found] == [first, second]
    assert {item.correct for item in found} == {None}
    assert [item.exchange for item in traces.questions(second.asked)] == [second]


def test_what_people_say_is_found_with_the_answer_and_the_last_word_counts(
    traces: ServedTraces,
) -> None:
    said = exchange()
    traces.write(said)
    assert traces.add(Feedback(completion=said.completion, rating="good", note="nice"))
    assert traces.add(Feedback(completion=said.completion, rating="bad", answer="It returns two."))
    assert not traces.add(Feedback(completion=exchange().completion, rating="bad"))
    [found] = traces.questions()
    assert (found.correct, found.expected, found.note) == (False, "It returns two.", "nice")


def test_what_is_too_old_or_too_much_goes_oldest_first(traces: ServedTraces) -> None:
    ages = (40, 20, 10)
    for days in ages:
        traces.write(exchange("x" * 300_000, asked=NOW - timedelta(days=days)))
    assert traces.prune(BOUNDS, NOW) == 1
    assert traces.prune(LogParams(days=30, megabytes=1), NOW) == 1
    [left] = traces.questions()
    assert left.exchange.asked == NOW - timedelta(days=10)


def test_personal_data_are_masked_before_anything_is_written(
    writer: Writer, stores: Stores, tmp_path: Path
) -> None:
    secret = "Reach me at jane.roe@example.org or 010-1234-5678."
    said = exchange(secret).model_copy(update={"answer": secret})
    assert writer.keep(said).outcome == "kept"
    told = Feedback(completion=said.completion, rating="bad", answer=secret, note=secret)
    assert writer.keep(told).outcome == "kept"
    [found] = ServedTraces(stores).questions()
    assert found.exchange.question == "Reach me at [EMAIL] or [PHONE]."
    assert found.exchange.answer == found.expected == found.note == found.exchange.question
    sqlite3.connect(tmp_path / "mlflow.db").execute("pragma wal_checkpoint(truncate)")
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"jane.roe" not in written
    assert b"1234-5678" not in written


def test_what_params_drop_is_left_out(writer: Writer, stores: Stores, tmp_path: Path) -> None:
    file = tmp_path / "params" / "curation.yaml"
    file.write_text(file.read_text().replace("email: mask", "email: drop"))
    place = LogPlace(
        tracking_uri=stores.tracking_uri, artifacts=None, params=str(tmp_path / "params")
    )
    outcome = read_writer(place).keep(exchange("who is jane.roe@example.org?"))
    assert outcome.outcome == "left_out"
    assert outcome.error == "it holds personal data (email), which params drop"
    assert list(ServedTraces(stores).questions()) == []


def test_a_store_that_is_not_there_is_told_and_tried_again(
    writer: Writer, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # else MLflow asks for 102 s
    database = tmp_path / "mlflow.db"
    database.rename(tmp_path / "away.db")
    database.mkdir()  # sqlite can't open it
    assert writer.keep(exchange()).outcome == "failed"
    database.rmdir()
    (tmp_path / "away.db").rename(database)
    assert writer.keep(exchange()).outcome == "kept"
