"""Conversations that call tools: rows in OpenAI's format, and tiny models trained for them."""

import json
import shutil
from pathlib import Path
from typing import Any

from tasks.prompting.files import PROMPT
from tasks.records.schema import Record, read_records, write_records
from tasks.records.turns import read_turns
from tasks.stage.outputs import write_manifest
from tasks.task_types.table import TrainedTask
from tests.unit.conftest import Tiny

CITIES = ("Seoul", "Busan", "Paris", "Lima", "Cairo", "Oslo", "Quito", "Hanoi")


def tool(name: str, *arguments: str, description: str = "Tell something.") -> dict[str, Any]:
    """A function whose arguments are texts."""
    schema = {
        "type": "object",
        "properties": {argument: {"type": "string"} for argument in arguments},
        "required": list(arguments),
    }
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


WEATHER, CLOCK = tool("get_weather", "city"), tool("get_time", "city")


def call(name: str, identifier: str = "call_1", **arguments: Any) -> dict[str, Any]:
    """A call in OpenAI's format."""
    content = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": identifier, "type": "function", "function": content}


def asking(city: str, what: str = "weather") -> dict[str, str]:
    return {"role": "user", "content": f"What is the {what} in {city}?"}


def calling(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(text: str, identifier: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": text}


def row(number: int) -> dict[str, Any]:
    """One of three kinds in turn: a call, an answer after its result, an answer without any."""
    city = f"{CITIES[number % len(CITIES)]} {number}"
    named = {"id": f"t{number}", "tools": [WEATHER, CLOCK]}
    ask, called = asking(city), calling(call("get_weather", city=city))
    match number % 3:
        case 0:
            return named | {"messages": [ask, called]}
        case 1:
            said = {"role": "assistant", "content": f"It is {number} degrees in {city}."}
            return named | {"messages": [ask, called, result(f'{{"degrees": {number}}}'), said]}
    return named | {
        "messages": [
            {"role": "user", "content": f"Say hello to {city}."},
            {"role": "assistant", "content": f"Hello, {city}!"},
        ]
    }


def write_calling(folder: Path, source: Path) -> None:
    """Write a curated folder whose records offer tools, the passages of the source beside them."""
    shutil.copytree(source, folder)
    number = 0
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.jsonl"
        records = []
        for record in read_records(path):
            records.append(calling_record(record, number))
            number += 1
        write_records(path, records)
    write_manifest(folder)


def calling_record(record: Record, number: int) -> Record:
    """The record with another conversation."""
    turns = read_turns(row(number), reads_tools=True).messages
    content = record.as_row() | {"messages": [vars_of(turn) for turn in turns]}
    return Record.from_row(content)


def vars_of(turn: Any) -> dict[str, str]:
    return {"role": turn.role, "content": turn.content}


def as_caller(tiny: Tiny, root: Path) -> Tiny:
    """A copy of the tiny models that were trained to call tools, with data to match."""
    shutil.copytree(tiny.root, root, ignore=shutil.ignore_patterns("curated"))
    made = Tiny(root)
    write_calling(made.curated, tiny.curated)
    for folder in (made.adapter, made.student, made.control):
        TrainedTask("tools").write(folder / PROMPT)
        write_manifest(folder)
    write_manifest(made.students)
    return made
