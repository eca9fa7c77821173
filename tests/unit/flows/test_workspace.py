"""Workspaces: copies of the checkout with other params."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.dvc_settings import copy_settings
from flows.overrides import Override, overrides_digest, read_overrides
from flows.workspace import check_unlocked, choose_workspace, find_checkout, night_lock, prepare
from tasks.services.locks import find_holder
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError

INGESTION = """
sources:
  - name: faq
    kind: files
source_defaults:
  limit: null
  files: {root: ., records: []}
longest_line_bytes: 1000
"""

PATHS = """
raw: data/raw
source_weights: data/source_weights.json
accepted: data/accepted
base: data/models/base.json
embedder: data/models/embedder.json
reranker: data/models/reranker.json
student_base: data/models/student.json
model_store: .nightloom/models
scratch: data/scratch
bundle: data/bundle
curation_report: data/reports/curation
evaluation_report: data/reports/evaluation
validation_report: data/reports/validation
tokenization_report: data/reports/tokenization
packaging_report: data/reports/packaging
curated: data/curated
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "dvc.yaml": "stages: {}\n",
        "prefect.yaml": "name: x\n",
        ".dvc/config": "[core]\n    analytics = false\n",
        ".dvcignore": "__pycache__/\n",
        "tasks/__init__.py": "",
        "params/paths.yaml": PATHS,
        "params/ingestion.yaml": INGESTION,
        "params/finetuning.yaml": "rank: 16\nlora:\n  dropout: 0.0\n",
        "params/presets/small.yaml": "finetuning.rank: 2\n",
        "params/presets/listed.yaml": "- finetuning.rank=3\n",
        "data/raw/intakes/one/records.jsonl": "{}\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_without_overrides_the_checkout_is_the_workspace(checkout: Path) -> None:
    assert choose_workspace(checkout, None, []).path == checkout


def test_overrides_are_applied_in_the_workspace_and_never_in_the_checkout(checkout: Path) -> None:
    workspace = choose_workspace(checkout, "small", ["finetuning.lora.dropout=0.5"])
    prepare(workspace)
    text = (workspace.path / "params" / "finetuning.yaml").read_text()
    assert yaml.safe_load(text) == {"rank": 2, "lora": {"dropout": 0.5}}
    assert "rank: 16" in (checkout / "params" / "finetuning.yaml").read_text()


def test_the_last_override_of_a_key_wins(checkout: Path) -> None:
    found = read_overrides(checkout, "listed", ["finetuning.rank=9"])
    assert found == (Override("finetuning.rank", 9),)


def test_the_digest_does_not_depend_on_the_order(checkout: Path) -> None:
    texts = ["finetuning.rank=9", "ingestion.source_defaults.limit=3"]
    forward, backward = (read_overrides(checkout, None, x) for x in (texts, texts[::-1]))
    assert overrides_digest(forward) == overrides_digest(backward)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("finetuning.rnk=3", "finetuning.rank"),
        ("finetuning.rank", "expected FILE.KEY=VALUE"),
        ("finetuning.rank=[", "not YAML"),
        ("paths.raw=elsewhere", "params/ holds no"),
    ],
)
def test_a_bad_override_is_an_error_that_says_more(checkout: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_workspace(checkout, None, [text])


def test_an_unknown_preset_names_those_there_are(checkout: Path) -> None:
    with pytest.raises(ConfigError, match="listed, small"):
        choose_workspace(checkout, "large", [])


def test_a_new_workspace_begins_with_the_intakes_of_the_checkout(checkout: Path) -> None:
    workspace = choose_workspace(checkout, None, ["ingestion.longest_line_bytes=5000"])
    prepare(workspace)
    assert (workspace.path / "data/raw/intakes/one/records.jsonl").exists()


@pytest.mark.parametrize(
    "text",
    [
        "ingestion.source_defaults.limit=5",
        "ingestion.sources.faq.limit=5",
        "ingestion.sources=[{name: mine, kind: files}]",
    ],
)
def test_a_workspace_with_its_own_source_begins_empty(checkout: Path, text: str) -> None:
    workspace = choose_workspace(checkout, None, [text])
    prepare(workspace)
    assert not (workspace.path / "data/raw").exists()


def ingestion_of(checkout: Path, *texts: str) -> Any:
    workspace = choose_workspace(checkout, None, texts)
    prepare(workspace)
    return yaml.safe_load((workspace.path / "params" / "ingestion.yaml").read_text())


def test_an_entry_of_a_list_is_addressed_by_its_name(checkout: Path) -> None:
    texts = ["ingestion.sources.faq.weight=2", "ingestion.sources.faq.files.root=incoming"]
    found = ingestion_of(checkout, *texts)
    entry = {"name": "faq", "kind": "files", "weight": 2, "files": {"root": "incoming"}}
    assert found["sources"] == [entry]
    assert "weight" not in (checkout / "params" / "ingestion.yaml").read_text()


def test_a_list_can_be_given_whole_and_its_entries_changed(checkout: Path) -> None:
    texts = ["ingestion.sources=[{name: mine, kind: sql}]", "ingestion.sources.mine.limit=3"]
    found = ingestion_of(checkout, *texts)["sources"]
    assert found == [{"name": "mine", "kind": "sql", "limit": 3}]
    workspace = choose_workspace(checkout, None, texts)
    prepare(workspace)
    assert workspace.overrides[0].value == [{"name": "mine", "kind": "sql"}]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["ingestion.sources.fqa.limit=3"], "params/ holds no 'ingestion.sources.fqa.limit'"),
        (["ingestion.sources.faq.name.x=3"], "there is no 'name' to look into"),
        (
            ["ingestion.sources=[{name: docs, kind: files}]", "ingestion.sources.faq.limit=3"],
            "there is no 'faq' to look into",
        ),
        (["ingestion.source=files"], "ingestion.source"),
        (["ingestion.files.root=x"], "ingestion.files.root"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(
    checkout: Path, texts: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        ingestion_of(checkout, *texts)


@pytest.mark.parametrize(
    ("text", "now"),
    [
        (
            "ingestion.source=files",
            "ingestion.sources, a list such as [{name: files, kind: files}]",
        ),
        ("ingestion.files.root=x", "ingestion.source_defaults.files.root"),
        ("ingestion.limit=3", "ingestion.source_defaults.limit"),
        ("ingestion.packages=[numpy]", "ingestion.source_defaults.python_docs.packages"),
        ("ingestion.sql.records.query=x", "ingestion.source_defaults.sql.records.query"),
    ],
)
def test_the_keys_of_one_source_are_refused_with_those_of_today(
    checkout: Path, text: str, now: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_workspace(checkout, None, [text])
    assert now in caught.value.remedy


def test_preparing_again_renews_code_and_keeps_data(checkout: Path) -> None:
    workspace = choose_workspace(checkout, "small", [])
    prepare(workspace)
    kept = workspace.path / "data" / "bundle"
    kept.mkdir(parents=True)
    (checkout / "tasks" / "new.py").write_text("")
    (checkout / "data/raw/intakes/two").mkdir()
    prepare(workspace)
    assert (workspace.path / "tasks" / "new.py").exists()
    assert kept.exists()
    assert not (workspace.path / "data/raw/intakes/two").exists()


def test_workspaces_share_the_cache_and_the_models(checkout: Path) -> None:
    workspace = choose_workspace(checkout, "small", [])
    prepare(workspace)
    config = (workspace.path / ".dvc" / "config").read_text()
    assert str(checkout / ".dvc" / "cache") in config
    assert "no_scm = true" in config
    assert (workspace.path / ".nightloom/models").resolve() == checkout / ".nightloom/models"


def test_a_folder_below_the_checkout_finds_it_and_a_workspace_is_none(checkout: Path) -> None:
    workspace = choose_workspace(checkout, "small", [])
    prepare(workspace)
    assert find_checkout(checkout / "params") == checkout
    assert find_checkout(workspace.path) == checkout


def test_outside_of_a_project_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no project at or above"):
        find_checkout(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from flows.workspace import night_lock
with night_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_night_names_the_pid_of_the_first_and_a_killed_one_does_not_block(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "night.lock"
    said: list[str] = []

    class StopError(Exception):
        pass

    def on_line(line: str) -> None:
        with pytest.raises(ConfigError, match="process") as caught:
            check_unlocked(lock)
        said.append(caught.value.message)
        raise StopError

    with pytest.raises(StopError):
        run_child(["python", "-c", HOLD, str(lock)], Path.cwd(), on_line)
    pid = said[0].split("process ")[1].split()[0]
    assert int(pid) > 0
    assert find_holder(lock) is None
    with night_lock(lock):
        pass


def test_a_full_evaluation_without_a_night_is_refused_and_makes_nothing() -> None:
    from flows.evaluate import evaluate_fully

    overrides = ["evaluation.records=7", "evaluation.salt=no night has it"]
    workspace = choose_workspace(Path().resolve(), None, overrides)
    with pytest.raises(ConfigError, match=r"holds no data/raw.*that night's models"):
        evaluate_fully.fn(root=".", overrides=overrides)
    assert not workspace.path.exists()


def test_a_copys_workspaces_share_the_models_of_the_copy(checkout: Path, tmp_path: Path) -> None:
    """What lies in `.nightloom` is copied with its links, or with what they lead to."""
    original = tmp_path / "original"
    shutil.copytree(checkout, original, ignore=shutil.ignore_patterns("original"))
    prepare(choose_workspace(original, "small", []))
    (original / ".nightloom" / "models" / "weights").write_text("heavy")
    for name, linked in (("copy", True), ("dereferenced", False)):
        copy = tmp_path / name
        shutil.copytree(original, copy, symlinks=linked)
        workspace = choose_workspace(copy, "small", [])
        prepare(workspace)
        models = workspace.path / ".nightloom" / "models"
        assert models.resolve().is_relative_to(copy)
        assert (models / "weights").read_text() == "heavy"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("why?not", "would write to {}/why, outside of it"),
        ("%(dir)s", "DVC takes it for a value"),
        ("$HOME", "writes elsewhere"),
        ("{curly}", "DVC takes what stands in them"),
        ("two\nlines", "read line by line"),
    ],
)
def test_a_folder_that_a_library_would_misread_is_refused(
    tmp_path: Path, name: str, said: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file in ("prefect.yaml", "dvc.yaml"):
        (folder / file).touch()
    with pytest.raises(ConfigError) as caught:
        find_checkout(folder)
    assert said.format(tmp_path) in caught.value.message


def test_a_workspaces_settings_lead_where_those_of_the_checkout_lead(tmp_path: Path) -> None:
    """Relative paths count from the folder of the config, and this one is another."""
    from dvc.config import Config

    source, target = tmp_path / "in #1, 100%" / "checkout", tmp_path / "far" / "off" / "workspace"
    (source / ".dvc").mkdir(parents=True)
    (source / ".dvc" / "config").write_text(
        "[core]\n    remote = near\n[cache]\n    dir = '../../a cache#1'\n"
        "['remote \"near\"']\n    url = '../../re,mote'\n    verify = true\n"
        "['remote \"home\"']\n    url = ~/store\n"
        "['remote \"far\"']\n    url = 's3://bucket/a#b?c'\n"
    )
    (source / ".dvc" / "config.local").write_text(
        "['remote \"far\"']\n    credentialpath = secret\n"
    )
    for _ in range(2):  # preparing again changes nothing
        copy_settings(source, target)
        given, found = Config(str(source / ".dvc")), Config(str(target / ".dvc"))
        assert found["remote"] == given["remote"]
        assert found["cache"]["dir"] == given["cache"]["dir"] == str(source.parent / "a cache#1")
        assert found["remote"]["far"]["credentialpath"] == str(source / ".dvc" / "secret")
        assert (given["core"]["no_scm"], found["core"]["no_scm"]) == (False, True)
