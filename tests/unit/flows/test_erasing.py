"""`nightloom erase`: a row leaves data, DVC, MLflow, databases and logs, and the proof says so."""

import gzip
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import unicodedata
from collections import OrderedDict
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow
import pytest
from mlflow.tracking._tracking_service import utils as mlflow_places
from pyarrow import parquet
from typer.testing import CliRunner

from flows import erasing, evaluate, nightly
from flows.cli import app
from flows.erasing import came_back, list_file, reapply
from flows.mlflow_store import own_store
from flows.promoter import make_promoter
from flows.run_state import NightLog
from flows.workspace import Workspace, choose_workspace, night_lock, prepare
from tasks.feedback.exchanges import Exchange, Feedback, ShownPassage
from tasks.feedback.review_queue import ReviewQueue
from tasks.feedback.traces import ServedTraces
from tasks.ingestion.erased_rows import ErasedRows, erased_file
from tasks.orchestration.tracking import Tracker
from tasks.scoring.record_hashes import hash_ids, write_hashes
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import folder_files, output_folders, verified, write_manifest
from tests.builders.byte_search import files_with
from tests.builders.registry import Shop, make_template, policies

pytestmark = pytest.mark.slow

SAYS = "The canary Zorblax sang at three in the morning, ❝twice❞ & <loudly>."
INTAKE = "20260102T030405Z-aaaaaaaa"
ROWS = [
    {"id": "a", "question": "What does the sparrow say?", "answer": "Nothing at all today."},
    {"id": "canary", "question": "What did it sing, and when was that?", "answer": SAYS},
]


def make_raw(raw: Path) -> None:
    with output_folders(raw / "intakes" / INTAKE) as (folder,):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
        (folder / "records.jsonl").write_text(text, encoding="utf-8")
        (folder / "documents.jsonl").write_text("")
        content = {"name": INTAKE, "source": "files", "origin": ["r"], "records": 2, "documents": 0,
                   "faulty": 0, "when": "2026-01-02T03:04:05+00:00", "since": {}}  # fmt: skip
        (folder / "intake.json").write_text(json.dumps(content))


def make_outs(root: Path) -> None:
    """What stages, scratch and memos hold of a row."""
    with output_folders(root / "data/accepted", root / "data/index") as (accepted, index):
        (accepted / "records.jsonl").write_text(json.dumps(ROWS[1]))
        terms = {"zorblax": 0.5, "the": 0.5}
        profile = {"vocabulary": {"terms": terms}, "slices": {}}
        (accepted / "profile.json").write_text(json.dumps(profile))
        parquet.write_table(pyarrow.table({"text": [SAYS]}), index / "passages.parquet")
    scratch = root / "data/scratch/memos"
    scratch.mkdir(parents=True)
    (scratch / "memo.gz").write_bytes(gzip.compress(SAYS.encode()))
    with closing(sqlite3.connect(scratch / "memo.db")) as connection, connection:
        connection.execute("CREATE TABLE memo (text TEXT)")
        connection.execute("INSERT INTO memo VALUES (?)", (SAYS,))


def make_state(state: Path) -> None:
    """What logs, nights and Prefect's database hold of a row, deleted rows too."""
    for name in ("logs", "nights", "prefect", "downloads", "tmp"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "logs/night.log").write_text(f"refused: {SAYS}\nthe end\n", encoding="utf-8")
    night: dict[str, Any] = {"night": "n", "workspace": "w", "pid": 1, "verdict": "refused"}
    night["reasons"] = [f"answer is {SAYS!r}"]
    (state / "nights/n.json").write_text(json.dumps(night))
    (state / "downloads/x.json").write_text(SAYS, encoding="utf-8")
    with closing(sqlite3.connect(state / "prefect/prefect.db")) as connection, connection:
        connection.execute("CREATE TABLE log (message TEXT, data JSON)")
        connection.execute("INSERT INTO log VALUES (?, ?)", (SAYS, json.dumps({"m": SAYS})))
        connection.execute("INSERT INTO log VALUES (?, 'gone')", (SAYS,))
        connection.execute("DELETE FROM log WHERE data = 'gone'")


def exchange(number: int, answer: str, version: int = 1, asked: datetime | None = None) -> Exchange:
    return Exchange(
        completion=f"chatcmpl-{number:032x}",
        model="adapter",
        version=version,
        alias="production",
        turns=(("user", f"What did number {number} do?"),),
        passages=(ShownPassage(id="canary#0", text=f"Title: {answer}", score=1.0),),
        answer=answer,
        is_cut=False,
        asked=asked or datetime.now(UTC) - timedelta(hours=9 - number),
        seconds=1.0,
    )


def make_served(stores: Stores) -> None:
    """A served log in which people and a shadow say what the row says, with its review queue."""
    traces = ServedTraces(stores)
    for number, answer in ((1, "Nothing at all."), (2, SAYS), (3, "It sang."), (4, "It slept.")):
        traces.write(exchange(number, answer))
    traces.add(Feedback(completion=exchange(1, "").completion, rating="good"))
    traces.add(Feedback(completion=exchange(3, "").completion, answer=SAYS, note="wrong"))
    [*_, last] = traces.questions()
    traces.add_other_answer(last.trace, "student-1", SAYS)
    ReviewQueue(stores).fill([question.trace for question in traces.questions()])


def make_copies(root: Path) -> None:
    """A deep evaluation and a trial of a sweep, whose intakes are links to the checkout's."""
    for place in ("evaluation-full/0123456789ab", "sweeps/study/0123456789ab"):
        workspace = Workspace(root, root / ".nightloom" / place, ())
        prepare(workspace)
        shutil.rmtree(workspace.path / "data/raw")
        shutil.copytree(root / "data/raw", workspace.path / "data/raw", copy_function=os.link)
        make_outs(workspace.path)
    assert (root / "data/raw/intakes" / INTAKE / "records.jsonl").stat().st_nlink == 3


def make_reports(root: Path) -> list[Path]:
    """What a night's steps leave of rows: curation's examples, shadow and source weights."""
    reports = root / "data/reports/curation"
    reports.mkdir(parents=True)
    (reports / "report.md").write_text(f"- near_duplicate: 1\n  - {SAYS} -> {SAYS}\n")
    (reports / "metrics.json").write_text(json.dumps({"leak_examples": [{"record": SAYS}]}))
    (root / "data/source_weights.json").write_text('{"files": 1.0}')
    release = root / "data/scratch/release"
    release.mkdir(parents=True)
    (release / "shadow.json").write_text(json.dumps({"models": {}}))
    (release / "served_questions.json").write_text(json.dumps([SAYS]))
    return [reports / "report.md", reports / "metrics.json"]


def register(shop: Shop, text: str, ids: list[str], golden: str) -> int:
    """The number of a version in production whose bundle learned these ids and shows a golden."""
    folder = shop.folder(text)
    bundle = folder / "artifacts" / "bundle"
    write_hashes(bundle / "learned.npy", hash_ids(ids))
    (bundle / "golden.json").write_text(json.dumps([{"question": golden}]))
    write_manifest(bundle)
    run = Tracker(shop.stores).begin_night(text, {})
    key = text.replace(" ", "-") + "0" * 8
    version = shop.registry.register("adapter", key, lambda: folder, run, {})
    shop.judge(version, params=policies("automatic", "automatic"))
    shutil.rmtree(shop.root / "made")
    return version.number


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


def set_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")


@pytest.fixture
def checkout(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose every place holds a row, and a workspace that holds it too."""
    set_variables(monkeypatch)
    root = tmp_path / "checkout"
    subprocess.run(["cp", "-a", str(made), str(root)], check=True)  # links stay links
    own_store(root)  # follows
    # MLflow keeps places of artifacts by run alone, and each copy has the same runs.
    monkeypatch.setattr(mlflow_places, "_artifact_repos_cache", OrderedDict())
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """Such a checkout, to be copied."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_variables(monkeypatch)
        return make_checkout(tmp_path_factory.mktemp("made") / "checkout", template)


def make_checkout(root: Path, template: Path) -> Path:
    left = shutil.ignore_patterns("cache", "tmp", "*.local")
    for name in ("params", ".dvc"):
        shutil.copytree(name, root / name, ignore=left)
    for name in ("dvc.yaml", "prefect.yaml", ".dvcignore", ".gitignore"):
        shutil.copyfile(name, root / name)
    (root / "tasks").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    make_raw(root / "data/raw")
    add = [sys.executable, "-m", "dvc", "add", "-q", "data/raw"]
    subprocess.run(add, cwd=root, check=True)
    prepare(choose_workspace(root, None, ["finetuning.epochs=2"]))
    state = root / ".nightloom"
    shop = Shop.open(state, template)
    assert register(shop, "one", ["a", "canary"], SAYS) == 1
    run = shop.client.search_runs([shop.client.get_experiment_by_name("nightloom").experiment_id])
    report = root.with_name("predictions.parquet")
    parquet.write_table(pyarrow.table({"record": ["canary"], "answer": ["cut"]}), report)
    shop.client.log_artifact(run[0].info.run_id, str(report), "reports")
    shop.client.set_tag(run[0].info.run_id, "note", f"worst: {SAYS}")
    report.unlink()
    make_outs(root)
    for path in make_reports(root):
        shop.client.log_artifact(run[0].info.run_id, str(path), "reports/curation")
    make_served(shop.stores)
    make_copies(root)
    for folder in (state / "workspaces").iterdir():
        make_outs(folder)
    make_state(state)
    (state / "evaluation-full/report.gz").write_bytes(gzip.compress(SAYS.encode()))
    return root


def nightloom(checkout: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments, "--root", str(checkout)])
    return done.exit_code, done.output


def said(checkout: Path, *arguments: str) -> Any:
    code, text = nightloom(checkout, *arguments, "--json")
    assert code == 0, text
    return json.loads(text)


def test_a_canary_is_found_nowhere_after_the_next_release_and_prune(checkout: Path) -> None:
    assert len(files_with(checkout, [SAYS])) >= 30
    workspaces = list((checkout / ".nightloom/workspaces").iterdir())

    found = said(checkout, "erase", "canary", "--reason", "request of today", "--by", "ann")

    assert [(row["kind"], row["id"]) for row in found["rows"]] == [("records", "canary")]
    assert [row["source"] for row in found["rows"]] == ["files"]
    assert found["versions"] == [{"model": "adapter", "version": 1}]
    assert found["served_deleted"] == 3
    bundle = checkout / ".nightloom/artifacts"
    assert files_with(checkout, [SAYS], left_out=[bundle]) == []
    [left] = files_with(checkout, [SAYS])
    assert left.name == "golden.json"  # of the version that serves
    for root in (checkout, *workspaces):
        [intake] = (root / "data/raw/intakes").iterdir()
        verified(intake)
        assert (intake / "records.jsonl").read_text().splitlines() == [json.dumps(ROWS[0]), ""]
        profile = json.loads((verified(root / "data/accepted") / "profile.json").read_text())
        assert profile["vocabulary"]["terms"] == {"the": 0.5}
        assert not (root / "data/scratch").exists()
    assert "the end" in (checkout / ".nightloom/logs/night.log").read_text()
    assert json.loads((checkout / ".nightloom/nights/n.json").read_text())["night"] == "n"

    code, text = nightloom(checkout, "erase", "--prove", "canary")
    assert (code, "version 1 held it" in text, "still there, named" in text) == (0, True, True)

    shop = Shop(checkout / ".nightloom")
    assert register(shop, "two", ["a"], "What does the sparrow say?") == 2
    assert shop.aliases()["previous"] == 1
    code, text = nightloom(checkout, "prune", "--yes")
    assert code == 0, text
    assert files_with(checkout, [SAYS]) == []
    [proof] = said(checkout, "erase", "--prove", "canary")["proofs"]
    assert proof["complete"]
    assert (proof["versions"][0]["replaced_by"], proof["rows"][0]["intake"]) == (2, INTAKE)
    assert nightloom(checkout, "ledger", "verify")[0] == 0


def stores_of(checkout: Path) -> Stores:
    return Shop(checkout / ".nightloom").stores


def test_served_questions_that_show_a_row_leave_log_and_queue_and_the_others_stay(
    checkout: Path,
) -> None:
    stores = stores_of(checkout)
    assert len(ReviewQueue(stores).pending()) == 4

    said(checkout, "erase", "canary", "--reason", "asked for")

    [left] = ServedTraces(stores).questions()
    assert (left.exchange.answer, left.correct) == ("Nothing at all.", True)
    assert ReviewQueue(stores).pending() == [left.trace]


def test_a_row_that_came_from_feedback_leaves_with_the_answer_that_it_was_made_of(
    checkout: Path,
) -> None:
    name, text = exchange(1, "").completion, "Nothing at all."
    row = {"id": name, "messages": [{"role": "user", "content": "What did number 1 do?"}]}
    with output_folders(checkout / "data/raw/intakes/20260103T030405Z-bbbbbbbb") as (folder,):
        (folder / "records.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "documents.jsonl").write_text("")
        content = {"name": folder.name, "source": "feedback", "origin": ["MLflow"], "records": 1,
                   "documents": 0, "faulty": 0, "when": "2026-01-03T03:04:05+00:00"}  # fmt: skip
        (folder / "intake.json").write_text(json.dumps(content))
    found = said(checkout, "erase", name, "--reason", "asked for")
    assert [row["source"] for row in found["rows"]] == ["feedback"]
    answers = [
        question.exchange.answer for question in ServedTraces(stores_of(checkout)).questions()
    ]
    assert text not in answers
    assert len(answers) == 3


def test_what_a_version_answers_after_the_erasure_of_its_row_is_not_kept(checkout: Path) -> None:
    """Nobody has the row's text any more: any of these answers may say it."""
    said(checkout, "erase", "canary", "--reason", "asked for")
    traces = ServedTraces(stores_of(checkout))
    traces.write(exchange(5, SAYS, asked=datetime.now(UTC)))
    traces.write(exchange(6, "Another version.", version=2, asked=datetime.now(UTC)))
    assert files_with(checkout, [SAYS], left_out=[checkout / ".nightloom/artifacts"])

    assert nightloom(checkout, "prune", "--yes")[0] == 0

    answers = {question.exchange.answer for question in traces.questions()}
    assert answers == {"Nothing at all.", "Another version."}
    assert files_with(checkout, [SAYS], left_out=[checkout / ".nightloom/artifacts"]) == []


def test_an_id_is_found_in_either_unicode_form(checkout: Path) -> None:
    raw = checkout / "data/raw/intakes" / INTAKE
    name = unicodedata.normalize("NFD", "Übung")
    text = (raw / "records.jsonl").read_text(encoding="utf-8").replace("canary", name, 1)
    (raw / "records.jsonl").unlink()  # it is a link
    (raw / "records.jsonl").write_text(text, encoding="utf-8")
    write_manifest(raw)
    found = said(checkout, "erase", unicodedata.normalize("NFD", name), "--reason", "asked for")
    assert [row["id"] for row in found["rows"]] == [unicodedata.normalize("NFC", name)]
    code, text = nightloom(checkout, "erase", "--prove", name)
    assert (code, "erased from" in text) == (0, True)


def test_every_row_of_an_id_goes_and_the_answer_says_whose_they_were(checkout: Path) -> None:
    with output_folders(checkout / "data/raw/intakes/20260103T030405Z-bbbbbbbb") as (folder,):
        (folder / "records.jsonl").write_text(json.dumps(ROWS[1]) + "\n")
        (folder / "documents.jsonl").write_text(json.dumps({"id": "canary", "text": SAYS}) + "\n")
        content = {"name": folder.name, "source": "faq", "origin": ["MLflow"], "records": 1,
                   "documents": 1, "faulty": 0, "when": "2026-01-03T03:04:05+00:00"}  # fmt: skip
        (folder / "intake.json").write_text(json.dumps(content))
    code, text = nightloom(checkout, "erase", "canary", "--reason", "asked for")
    assert code == 0
    whose = "records of files, records of faq, documents of faq"
    told = " ".join(text.split())
    assert f"canary is the id of several rows, and all are erased: {whose}" in told
    assert "document canary of source faq is erased from 20260103T030405Z-bbbbbbbb" in text


def test_nothing_goes_back_to_a_version_that_held_it(checkout: Path) -> None:
    shop = Shop(checkout / ".nightloom")
    register(shop, "two", ["a"], "What does the sparrow say?")
    said(checkout, "erase", "canary", "--reason", "asked for")
    code, text = nightloom(checkout, "rollback", "--to", "1", "--reason", "to see")
    assert (code, "version 1 held rows that were erased" in " ".join(text.split())) == (3, True)
    code, text = nightloom(checkout, "promote", "1", "--reason", "to see")
    assert (code, "nothing goes back to it" in " ".join(text.split())) == (3, True)


def test_a_backup_is_erased_before_a_night_reads_it(checkout: Path, tmp_path: Path) -> None:
    backup = shutil.copytree(checkout / "data/raw", tmp_path / "raw")
    said(checkout, "erase", "canary", "--reason", "asked for")
    shutil.rmtree(checkout / "data/raw")
    shutil.copytree(backup, checkout / "data/raw")  # its list of erased rows is gone with it
    make_outs_anew(checkout)
    workspace = Workspace(checkout, checkout, ())
    for name in workspace.paths().frozen:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    with pytest.raises(ConfigError, match="holds rows that were erased"):
        evaluate._check(workspace)
    promoter = make_promoter(checkout)
    assert came_back(promoter, workspace)
    assert erased_file(checkout / "data/raw").exists()
    with promoter.lock.held():
        found = reapply(promoter, workspace)
    assert [row.id for row in found.rows] == ["canary"]
    bundle = checkout / ".nightloom/artifacts"
    assert files_with(checkout, [SAYS], left_out=[bundle]) == []
    assert not came_back(promoter, workspace)

    # The list itself is lost, in the data and beside them: the ledger has it.
    shutil.rmtree(checkout / "data/raw")
    shutil.copytree(backup, checkout / "data/raw")
    list_file(checkout).unlink()
    assert came_back(make_promoter(checkout), workspace)
    assert ErasedRows.read(list_file(checkout)).rows


def make_outs_anew(checkout: Path) -> None:
    shutil.rmtree(checkout / "data/accepted")
    make_outs(checkout)


def test_what_can_not_be_erased_is_told_and_nothing_is_changed(checkout: Path) -> None:
    before = folder_files(checkout / "data")
    code, text = nightloom(checkout, "erase", "canary", "nobody", "--reason", "asked for")
    assert (code, "no intake holds a row with the id 'nobody'" in " ".join(text.split())) == (
        1,
        True,
    )
    code, text = nightloom(checkout, "erase", "canary")
    assert (code, "expected a sentence" in " ".join(text.split())) == (1, True)
    with night_lock(checkout / ".nightloom/night.lock"):
        code, text = nightloom(checkout, "erase", "canary", "--reason", "asked for")
    assert (code, "a night is running" in text) == (1, True)
    code, text = nightloom(checkout, "erase", "--prove", "canary")
    assert (code, "was erased" in text) == (1, True)
    assert folder_files(checkout / "data") == before


def test_a_night_forgets_first_and_warns_of_what_serves(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backup = shutil.copytree(checkout / "data/raw", tmp_path / "raw")
    said(checkout, "erase", "canary", "--reason", "asked for")
    shutil.rmtree(checkout / "data/raw")
    shutil.copytree(backup, checkout / "data/raw")
    monkeypatch.setattr(nightly, "get_run_logger", lambda: logging.getLogger("night"))
    workspace = Workspace(checkout, checkout, ())

    nightly.forget(workspace, NightLog(workspace, "tonight"))

    assert files_with(checkout, [SAYS], left_out=[checkout / ".nightloom/artifacts"]) == []
    assert "1 rows that were erased had come back" in caplog.text
    assert "version 1 is in production and held rows that were erased" in caplog.text


@pytest.mark.parametrize("only_release", [False, True])
def test_nothing_of_a_night_runs_before_that(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, only_release: bool
) -> None:
    called = []
    for name in ("prepare", "find_stores", "Tracker", "Registry", "NightRecord"):
        monkeypatch.setattr(nightly, name, MagicMock())
    for name in ("_build", "release", "refresh"):
        monkeypatch.setattr(nightly, name, lambda *_, name=name, **__: called.append(name))

    def forget(*_: object) -> None:
        called.append("forget")
        raise ConfigError("stopped here", "go on")

    monkeypatch.setattr(nightly, "forget", forget)
    monkeypatch.setattr(nightly, "close_abandoned", lambda _: [])
    monkeypatch.setattr(nightly, "get_run_logger", lambda: logging.getLogger("night"))
    workspace = Workspace(checkout, checkout, ())
    with pytest.raises(ConfigError, match="stopped here"):
        nightly._run(workspace, NightLog(workspace, "tonight"), only_release=only_release)
    assert called == ["forget"]


@pytest.mark.parametrize("step", ["wipe_stores", "clean_state", "_remove_outs", "erase_from"])
def test_an_erasure_that_was_cut_short_is_finished_when_it_is_said_again(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("the machine went down", "start it")

    with monkeypatch.context() as cut:
        cut.setattr(erasing, step, fail)
        code, _ = nightloom(checkout, "erase", "canary", "--reason", "asked for")
        assert code == 1
    said(checkout, "erase", "canary", "--reason", "asked for")
    assert files_with(checkout, [SAYS], left_out=[checkout / ".nightloom/artifacts"]) == []


def test_what_dvc_had_not_forgotten_yet_goes_when_the_next_night_begins(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("the machine went down", "start it")

    with monkeypatch.context() as cut:
        cut.setattr(erasing, "forget_objects", fail)
        assert nightloom(checkout, "erase", "canary", "--reason", "asked for")[0] == 1
    assert files_with(checkout / ".dvc/cache", [SAYS])
    assert not came_back(make_promoter(checkout), Workspace(checkout, checkout, ()))
    assert files_with(checkout, [SAYS], left_out=[checkout / ".nightloom/artifacts"]) == []


def test_the_ledger_is_never_written_over(checkout: Path) -> None:
    """Whoever writes a row's text into a reason finds it there: the chain is worth more."""
    said(checkout, "erase", "canary", "--reason", f"it says {SAYS}")
    assert nightloom(checkout, "ledger", "verify")[0] == 0
    entry = said(checkout, "ledger")[-1]
    assert SAYS in entry["reason"]
