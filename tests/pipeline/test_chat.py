"""A night of task chat: every turn learned, searched for by its conversation, scored, decided on
and served."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tasks.records.predictions import read_predictions
from tasks.records.schema import read_records
from tasks.sequences.examples import read_examples
from tests.builders.task_nights import TaskNight

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]

KINDS = ("lamp", "clock", "radio", "kettle", "printer")
SHOPS = ("Bath", "Leeds", "York", "Derby", "Truro")
SOURCE = (
    "ingestion.sources=[{name: desk, kind: files, files: {records: [chats.jsonl], "
    "documents: [things.jsonl]}}]"
)
CHAT = [
    "task.name=chat",
    SOURCE,
    "tokenization.max_tokens=1024",
    "prompting.max_new_tokens=24",
]


def write_chats(folder: Path, rows: int = 150) -> None:
    """Conversations about a thing that the first turn alone names, and a document on each thing."""
    draw = random.Random(1)
    chats, things = [], []
    for number in range(rows):
        name, shop = f"{draw.choice(KINDS)} {1000 + 7 * number}", draw.choice(SHOPS)
        code = f"K{draw.randrange(100, 999)}-{number}"
        things.append(
            {
                "id": f"thing{number}",
                "title": name,
                "text": f"The {name} is sold in {shop}. Its code is {code}.",
            }
        )
        said = [f"Where is the {name} sold?", f"In {shop}.", "And its code?", f"It is {code}."]
        if number % 5 == 0:
            said += ["Thanks, and is that all of it?", "Yes, it is."]
        messages: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)
        ]
        if number % 3 == 0:
            messages[1]["weight"] = 0
        chats.append({"id": f"c{number}", "messages": messages, "documents": [f"thing{number}"]})
    for file, found in (("chats.jsonl", chats), ("things.jsonl", things)):
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / file).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> TaskNight:
    folder = tmp_path_factory.mktemp("chat")
    return TaskNight.run(folder, write_chats, *CHAT)


def test_every_stage_runs_and_the_models_are_released(talked: TaskNight) -> None:
    assert talked.night["error"] is None
    assert {entry["state"] for entry in talked.night["stages"]} == {"executed"}
    assert talked.night["verdict"] == "promoted"


def test_every_turn_is_learned_but_those_of_weight_zero(talked: TaskNight) -> None:
    records = read_records(talked.data / "curated/train.jsonl")
    assert any(record.unlearned == (1,) for record in records)
    wanted = {
        f"{record.id}#{number}"
        for record in records
        for number in range(1, len(record.messages) // 2 + 1)
        if number not in record.unlearned
    }
    examples = read_examples(talked.data / "tokens/train.parquet")
    assert {example.id for example in examples} == wanted
    assert len({example.context for example in examples}) < len(examples)


def test_follow_ups_find_the_thing_that_an_earlier_turn_names(talked: TaskNight) -> None:
    rows = read_predictions(talked.data / "reports/evaluation/predictions.parquet")
    later = [row for row in rows if row.mode == "retrieved" and row.turn == 2]
    assert later
    found = [any(row.record[1:] in name for name in row.retrieved) for row in later]
    assert sum(found) / len(found) > 0.9
    assert talked.metrics["retrieval"]["recall_at_5"] > 0.9


def test_the_verdict_counts_conversations(talked: TaskNight) -> None:
    found = talked.metrics
    rows = read_predictions(talked.data / "reports/evaluation/predictions.parquet")
    own = [row for row in rows if (row.system, row.mode) == ("adapter", "retrieved")]
    conversations = len({row.record for row in own})
    assert conversations < len(own)
    assert found["records"] == found["comparisons"]["adapter-base"]["records"] == conversations
    assert set(found["turns"]["adapter"]) >= {"1", "2"}
    assert f"scored on the same {conversations} records" in json.dumps(talked.night)


def test_what_was_served_over_http_said_what_was_scored(talked: TaskNight) -> None:
    [parity] = talked.data.glob("**/parity.json")
    found = json.loads(parity.read_text(encoding="utf-8"))
    assert {one["share"] for one in found["models"].values()} == {1.0}
