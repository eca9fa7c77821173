"""A night of task tools: trained, scored by its calls, decided on, and served over HTTP."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.records.predictions import read_predictions
from tests.builders.task_nights import TaskNight
from tests.builders.tool_calls import CLOCK, WEATHER, asking, call, calling, result

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]

SYLLABLES = ("ba", "ko", "ri", "su", "te", "lo", "mi", "da", "nu", "fe")
SOURCE = "ingestion.sources=[{name: calls, kind: files, files: {records: [calls.jsonl]}}]"
TOOLS = [
    "task.name=tools",
    SOURCE,
    "tokenization.max_tokens=2048",
    "prompting.max_new_tokens=96",
    "promotion.rules.valid_calls.severity=warn",
]


def write_calls(path: Path, rows: int = 150) -> None:
    """Questions of which a third is answered by a call, a third after its result."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            city = "".join(draw.sample(SYLLABLES, 4)).capitalize()
            called = calling(call("get_weather", city=city))
            said = {"role": "assistant", "content": f"It is {number} degrees in {city}."}
            match number % 3:
                case 0:
                    messages: list[Any] = [asking(city), called]
                case 1:
                    degrees = result(json.dumps({"degrees": number}))
                    messages = [asking(city), called, degrees, said]
                case _:
                    ask = {"role": "user", "content": f"Greet {city}, please."}
                    messages = [ask, {"role": "assistant", "content": f"Hello, {city}!"}]
            row = {"id": f"c{number}", "tools": [WEATHER, CLOCK], "messages": messages}
            stream.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> TaskNight:
    folder = tmp_path_factory.mktemp("tools")
    return TaskNight.run(folder, lambda clone: write_calls(clone / "calls.jsonl"), *TOOLS)


def test_every_stage_runs_and_the_models_are_released(called: TaskNight) -> None:
    assert called.night["error"] is None
    assert {entry["state"] for entry in called.night["stages"]} == {"executed"}
    assert called.night["verdict"] == "promoted"


def test_turns_are_scored_by_calls_and_words(called: TaskNight) -> None:
    rows = read_predictions(called.report / "predictions.parquet")
    assert all(row.turn_score is not None and row.token_f1 is None for row in rows)
    assert {row.call_match is None for row in rows} == {True, False}
    assert called.metrics["primary"]["metric"] == "turn_score"
    assert called.metrics["task"] == {"name": "tools"}


def test_the_verdict_rests_on_the_turns_and_their_calls(called: TaskNight) -> None:
    told = json.dumps(called.night)
    assert "valid_calls" in told
    assert "turn_score over base" in told
    assert "token_f1" not in told


def test_what_was_served_over_http_said_what_was_scored(called: TaskNight) -> None:
    [parity] = called.checkout.glob(".nightloom/workspaces/*/data/**/parity.json")
    found = json.loads(parity.read_text(encoding="utf-8"))
    assert {one["share"] for one in found["models"].values()} == {1.0}
