"""`nightloom promote`, `rollback`, `ledger` and `prune`: what they print and how they exit."""

import json
import os
import pwd
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import promoter, review
from flows.cli import app
from flows.cli.status import print_status, read_status
from flows.console import make_console
from flows.review import OtherAnswer
from tasks.registry.transactions import INTENT_TAG
from tasks.scoring.record_use import RecordUse
from tasks.stage.errors import GateError
from tests.builders.registry import Shop, policies

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def released_store(reigned_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which version 2 is in production and 3 in staging, to be copied."""
    shop = Shop.open(tmp_path_factory.mktemp("released"), reigned_store)
    shop.release("three")
    return shop.database


@pytest.fixture
def project(released_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A project whose stores hold version 2 in production, 1 before it and 3 in staging."""
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    shutil.copytree("params", tmp_path / "params")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return Shop.open(tmp_path / ".nightloom", released_store)


def call(project: Shop, *words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, [*words, "--root", str(project.root.parent)])
    return found.exit_code, found.stdout, found.stderr


def content(project: Shop, *words: str) -> Any:
    code, printed, told = call(project, *words, "--json")
    assert code == 0, told
    return json.loads(printed)


def test_promote_moves_staging_to_production_and_says_by_whom(project: Shop) -> None:
    found = content(project, "promote", "--reason", "read twenty answers")
    assert (found["version"], found["aliases"]["production"], found["entry"]) == (3, 3, 6)
    entry = project.ledger.links()[-1].entry
    assert (entry.by, entry.reason) == (pwd.getpwuid(os.getuid()).pw_name, "read twenty answers")
    assert (
        "was in production already; nothing was decided"
        in call(project, "promote", "3", "--reason", "again")[1]
    )


def test_promote_shows_served_questions_that_are_answered_otherwise(
    project: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = [OtherAnswer("What [/x] is f?", "one", "two")]
    monkeypatch.setattr(review, "other_answers", lambda *_: changed)
    printed = call(project, "promote", "--reason", "read twenty answers")[1]
    assert "served questions that it answers otherwise" in printed
    assert "What [/x] is f?" in printed


def test_promote_takes_a_version_a_stage_and_a_name(project: Shop) -> None:
    found = content(
        project, "promote", "1", "--to", "staging", "--reason", "compare", "--by", "bea"
    )
    assert found["aliases"]["staging"] == 1
    assert project.ledger.links()[-1].entry.by == "bea"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["promote", "--reason", "x y z", "--to", "Production"], 1, "is no stage to move to"),
        (["promote", "9", "--reason", "x y z"], 1, "has no version 9; found 1, 2, 3"),
        (["promote", "--reason", " "], 1, "expected a sentence"),
        (["promote"], 2, "--reason"),
        (["rollback", "--reason", "x y z", "--to", "3"], 1, "was never in production"),
        (["promote", "4", "--reason", "x y z"], 3, "was refused by the rules"),
    ],
)
def test_what_does_not_fit_is_refused_and_production_stays(
    words: list[str], code: int, text: str, project: Shop
) -> None:
    if "4" in words:
        project.judge(project.register("four"), promoted=False)
    before = project.aliases()
    found = call(project, *words)
    assert found[0] == code
    assert text in " ".join(found[2].split())
    assert project.aliases() == before


def test_rollback_asks_the_old_bundle_first(project: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def rehearse(checkout: Path, model: str, params: Any, bundle: Path) -> str:
        asked.append(bundle)
        return "8 of 8 golden prompts answered as recorded"

    monkeypatch.setattr(promoter, "rehearse", rehearse)
    found = content(project, "rollback", "--reason", "it answers badly")
    assert (found["version"], found["aliases"]["previous"]) == (1, 2)
    assert (asked[0] / "settings.json").read_text() == "one"
    assert project.ledger.links()[-1].entry.reason.endswith("answered as recorded)")

    def refuse(checkout: Path, model: str, params: Any, bundle: Path) -> str:
        raise GateError("3 of 8 golden prompts answered as recorded", "name another")

    monkeypatch.setattr(promoter, "rehearse", refuse)
    assert call(project, "rollback", "--reason", "it answers badly")[0] == 3
    assert project.aliases()["production"] == 1


def test_the_ledger_is_shown_and_verified(project: Shop) -> None:
    shown = call(project, "ledger")[1]
    assert all(word in shown for word in ("promoted", "moved", "ann", "1 -> 2", "checked"))
    rows = content(project, "ledger", "--limit", "2")
    assert [row["number"] for row in rows] == [4, 5]
    verified = content(project, "ledger", "verify")
    assert verified == {"entries": 5, "head": rows[-1]["sha256"], "faults": []}
    assert call(project, "ledger", "verify", "--contains", rows[0]["sha256"][:16])[0] == 0
    code, told, _ = call(project, "ledger", "verify", "--contains", "beef")
    assert (code, "the chain was written anew since" in told) == (1, True)


def test_a_changed_entry_is_named_and_exits_1(project: Shop) -> None:
    with sqlite3.connect(project.database) as connection:
        connection.execute("DELETE FROM params WHERE key = '00000003'")
    code, told, _ = call(project, "ledger", "verify")
    assert code == 1
    assert "entry 3 is missing" in told


def test_prune_says_what_would_go_and_deletes_only_when_told(project: Shop) -> None:
    params = project.root.parent / "params" / "release.yaml"
    text = params.read_text().replace("archived: 5", "archived: 0").replace("days: 30", "days: 0")
    params.write_text(text)
    project.release("four")
    found = content(project, "prune", "--model", "adapter")
    assert [row["version"] for row in found["versions"] if row["goes"]] == [3]
    assert (found["deleted"], project.registry.numbers("adapter")) == (False, [1, 2, 3, 4])
    code, told, _ = call(project, "prune", "--yes")
    assert (code, "adapter 3: deleted" in told) == (0, True)
    assert project.registry.numbers("adapter") == [1, 2, 4]
    assert content(project, "ledger", "verify")["faults"] == []


def test_status_tells_what_is_unfinished_and_what_awaits_an_answer(project: Shop) -> None:
    project.release("four", policies("automatic", "approval"))
    intent = project.ledger.links()[-1].entry.model_dump(exclude={"number", "time", "previous"})
    project.registry.set_model_tag(
        "adapter", INTENT_TAG, json.dumps(intent | {"id": "x", "tags": {}, "discards": False})
    )
    status = read_status(project.root.parent)
    console = make_console(to_stderr=False)
    with console.capture() as captured:
        print_status(console, replace(status, record_use=RecordUse(counts={7: 9}, uncounted=2)))
    assert status.record_use is None  # its decisions kept no list of their records
    assert "the 9 test records have taken part in 7 decisions so far" in captured.get()
    assert "version 4 awaits approval for production since" in captured.get()
    assert "was cut short: then the next decision finishes it first" in captured.get()
