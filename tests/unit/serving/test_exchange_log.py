"""What the server does with entries that the log can't keep."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.feedback.exchanges import Feedback, LogPlace, Outcome
from tasks.serving import exchange_log
from tasks.serving.exchange_log import ExchangeLog
from tasks.serving.openai_api import RequestError
from tasks.serving.routes import _mark
from tests.unit.feedback.test_served_traces import exchange

FEEDBACK = Feedback(completion=f"chatcmpl-{'0' * 32}", rating="bad")


def test_what_comes_while_too_much_waits_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_log, "_MOST_WAITING", 3)
    monkeypatch.setattr(ExchangeLog, "_work", lambda _: None)  # nobody takes what waits
    log = ExchangeLog(tmp_path)
    log.offer(exchange())
    assert log.health() is None  # it is off
    log.keep(LogPlace(tracking_uri="sqlite://", artifacts=None, params="params"))
    for _ in range(5):
        log.offer(exchange())
    found = log.health()
    assert found is not None
    assert (found["dropped"], found["error"]) == (2, "more than 3 entries wait")


def test_what_is_long_waits_in_smaller_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_log, "_MOST_CHARACTERS", 1000)
    monkeypatch.setattr(ExchangeLog, "_work", lambda _: None)
    log = ExchangeLog(tmp_path)
    log.keep(LogPlace(tracking_uri="sqlite://", artifacts=None, params="params"))
    long = exchange().model_copy(update={"answer": "x" * 400})
    for _ in range(5):
        log.offer(long)
    found = log.health()
    assert found is not None
    assert (found["dropped"], found["error"]) == (3, "entries of more than 1000 characters wait")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(outcome="unknown"), 404),
        (Outcome(outcome="left_out", error="it holds personal data (email)"), 422),
        (Outcome(outcome="failed", error="the store is away"), 503),
    ],
)
def test_feedback_that_is_not_kept_is_refused_with_its_reason(
    outcome: Outcome, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def give(*_: Any) -> Outcome:
        return outcome

    monkeypatch.setattr(ExchangeLog, "is_on", True)
    monkeypatch.setattr(ExchangeLog, "give", give)
    with pytest.raises(
        RequestError, match=re.escape(outcome.error or "is kept: it is too old")
    ) as error:
        asyncio.run(_mark(ExchangeLog(tmp_path), FEEDBACK))
    assert error.value.status == status
