"""A row that was learned by a real night is in no file after the next one."""

import json
from collections import Counter
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.environment import find_stores
from tasks.feedback.exchanges import Exchange, Feedback, ShownPassage
from tasks.feedback.review_queue import ReviewQueue
from tasks.feedback.traces import ServedTraces
from tasks.records.schema import read_rows
from tests.builders.byte_search import files_with
from tests.builders.clones import OURS, UNTIMED, BuiltClone, run, set_params

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]


@pytest.fixture(autouse=True)
def _no_stores_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands that are called in this process find the clone's alone."""
    for name in environ:
        if name.startswith(OURS) and not name.startswith("PYTEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


def said(clone: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, [*words, "--json", "--root", str(clone)])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def choose_canary(workspace: Path) -> tuple[list[str], str]:
    """The ids of a document and of all records about it, one of them learned, and a long line of
    the document that stands in no other row.
    """
    [raw] = (workspace / "data/raw/intakes").iterdir()
    documents = {row["id"]: row["text"] for row in read_rows(raw / "documents.jsonl")}
    records = list(read_rows(raw / "records.jsonl"))
    learned = {row["id"] for row in read_rows(workspace / "data/curated/train.jsonl")}
    lines = Counter(line.strip() for text in documents.values() for line in text.splitlines())
    everything = json.dumps([*records, *({"text": x} for x in documents.values())])
    for row in records:
        if row["id"] not in learned or len(row.get("documents") or []) != 1:
            continue
        [name] = row["documents"]
        about = [item["id"] for item in records if name in (item.get("documents") or [])]
        long = [x.strip() for x in documents[name].splitlines() if len(x.strip()) > 45]
        own = [x for x in long if lines[x] == 1 and everything.count(json.dumps(x)[1:-1]) == 1]
        if own:
            return [name, *about], own[0]
    raise AssertionError("no document has a line of its own")


def serve(clone: Path, number: int, text: str) -> None:
    """Keep an answer of the first version that says a text, and put it before people."""
    stores = find_stores(clone)
    asked = Exchange(
        completion=f"chatcmpl-{number:032x}",
        model="adapter",
        version=1,
        alias="staging",
        turns=(("user", "What does it say?"),),
        passages=(ShownPassage(id="a#0", text=f"Title. {text}", score=1.0),),
        answer=text,
        is_cut=False,
        asked=datetime.now(UTC),
        seconds=1.0,
    )
    traces = ServedTraces(stores)
    traces.write(asked)
    traces.add(Feedback(completion=asked.completion, answer=text))
    ReviewQueue(stores).fill([question.trace for question in traces.questions()])


def test_what_a_night_learned_is_gone_after_the_next_release_and_prune(
    built: BuiltClone, tmp_path: Path
) -> None:
    clone = built.copy(tmp_path / "checkout")
    set_params(clone, UNTIMED)
    [workspace] = (clone / ".nightloom/workspaces").iterdir()
    names, line = choose_canary(workspace)
    serve(clone, 1, line)
    serve(clone, 2, "Nothing of that.")
    held = files_with(clone, [line])
    assert len(held) > 4, held

    found = said(clone, "erase", *names, "--reason", "request of today")

    assert {row["id"] for row in found["rows"]} == set(names)
    assert {(one["model"], one["version"]) for one in found["versions"]} == {
        ("adapter", 1), ("student", 1),
    }  # fmt: skip
    assert found["served_deleted"] == 1
    left = files_with(clone, [line])
    assert left
    assert all("/artifacts/models/" in path.as_posix() for path in left), left

    serve(clone, 3, line)  # the version that serves says it again

    code, night = run(clone)
    assert (code, night["verdict"]) == (0, "promoted"), night
    assert night["versions"] == {"adapter": 2, "student": 2}
    said(clone, "prune", "--yes")

    assert files_with(clone, [line]) == []
    [kept] = ServedTraces(find_stores(clone)).questions()
    assert kept.exchange.answer == "Nothing of that."
    learned = {row["id"] for row in read_rows(workspace / "data/curated/train.jsonl")}
    assert learned.isdisjoint(names)
    for proof in said(clone, "erase", "--prove", *names)["proofs"]:
        assert proof["complete"]
        assert {one["replaced_by"] for one in proof["versions"]} == {2}
