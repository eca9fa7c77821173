"""Of DVC's cache goes what was made of a row, however old, and nothing else."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.erased_objects import forget_objects, raw_objects
from flows.workspace import Workspace
from tasks.services.traces import Traces
from tests.builders.byte_search import files_with

pytestmark = pytest.mark.slow

CANARY = "The canary Zorblax sang its verse at three."
NOTHING = Traces(frozenset({"no such text anywhere"}), frozenset())
ACCEPT = "cat data/raw/rows.txt > accepted.txt"
STAGES = {
    "stages": {
        "accept": {
            "cmd": ACCEPT,
            "deps": ["data/raw"],
            "outs": ["accepted.txt"],
        },
        "model": {
            # What was made of the row shows nothing of it.
            "cmd": "mkdir -p model && wc -c < accepted.txt > model/size && touch model/empty",
            "deps": ["accepted.txt"],
            "outs": ["model"],
        },
        "apart": {"cmd": "cp other.txt apart.txt", "deps": ["other.txt"], "outs": ["apart.txt"]},
    }
}


def dvc(root: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root, remote = tmp_path / "checkout", tmp_path / "remote"
    (root / "data/raw").mkdir(parents=True)
    (root / "params").mkdir()
    paths = "params/paths.yaml"
    (root / paths).write_text(Path(paths).read_text())
    dvc(root, "init", "--no-scm")
    dvc(root, "remote", "add", "--default", "here", str(remote))
    (root / "dvc.yaml").write_text(yaml.safe_dump(STAGES))
    (root / "other.txt").write_text("other\n")
    return Workspace(root, root, ())


def night(workspace: Workspace, rows: str) -> None:
    root = workspace.path
    (root / "data/raw/rows.txt").write_text(rows)
    (root / "data/raw/empty.txt").write_text("")
    dvc(root, "add", "data/raw")
    dvc(root, "repro")
    dvc(root, "push")


def test_what_derives_from_a_row_goes_from_cache_run_cache_and_remote(workspace: Workspace) -> None:
    root = workspace.path
    night(workspace, "a\n")
    early = md5(root / "accepted.txt"), md5(root / "model/size")
    night(workspace, f"a\n{CANARY}\n")
    seed = md5(root / "data/raw/rows.txt")
    learned = md5(root / "model/size")
    night(workspace, f"a\n{CANARY}\nb\n")
    seeds = {seed, md5(root / "data/raw/rows.txt")}
    for place in (root / ".dvc/cache", root.parent / "remote"):
        assert files_with(place, [CANARY])

    (root / "data/raw/rows.txt").write_text("a\n\nb\n")
    dvc(root, "add", "data/raw")
    gone = forget_objects([workspace], seeds, raw_objects([workspace]), NOTHING)

    assert gone > 0
    for place in (root / ".dvc/cache", root.parent / "remote"):
        assert files_with(place, [CANARY]) == []
        names = {path.parent.name + path.name for path in place.rglob("*") if path.is_file()}
        assert learned not in names  # made of it
        assert set(early) <= names | {learned}  # made before it came
        assert md5(root / "apart.txt") in names
    files = (path for path in (root / ".dvc/cache/runs").rglob("*") if path.is_file())
    commands = [yaml.safe_load(path.read_text())["cmd"] for path in files]
    assert commands.count(ACCEPT) == 1  # of three
    dvc(root, "repro")
    assert (root / "accepted.txt").read_text() == "a\n\nb\n"


def test_what_holds_the_text_goes_though_nothing_says_how_it_was_made(workspace: Workspace) -> None:
    night(workspace, "a\n")
    root = workspace.path
    cache = root / ".dvc/cache/files/md5"
    stray = json.dumps({"said": CANARY}).encode()
    name = hashlib.md5(stray, usedforsecurity=False).hexdigest()
    (cache / name[:2]).mkdir(exist_ok=True)
    (cache / name[:2] / name[2:]).write_bytes(stray)
    traces = Traces(frozenset({CANARY}), frozenset())
    assert forget_objects([workspace], set(), raw_objects([workspace]), traces) == 1
    assert files_with(cache, [CANARY]) == []
