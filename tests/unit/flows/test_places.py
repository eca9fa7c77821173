"""Checkouts in odd places: whatever a folder is called, all of a night stays inside of it."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

NAMES = [
    "plain", "two words", "a#b", "100%", "50%25", "x,y", "it's", 'say "hi"', "semi;colon", "a=b",
    "[core]", "~", "한국어", "back\\slash", "star*", "trailing ", "-dash",
    "a&b", "e\u0301", 'it\'s "both"',
]  # fmt: skip
# What makes a checkout: one stage of a file, one raw folder, a relative remote, odd params.
FILES = {
    "prefect.yaml": "name: x\n",
    ".dvcignore": "__pycache__/\n",
    ".dvc/config": "[core]\n    no_scm = true\n    remote = store\n['remote \"store\"']\n"
    "    url = ../../remote\n",
    "dvc.yaml": "stages:\n  making:\n    cmd: cp data/raw/rows data/made\n    deps: [data/raw]\n"
    "    outs: [data/made]\n",
    "params/ingestion.yaml": "columns: {'Question (EN)': question, 질문: a/b, 3: x}\n",
    "params/finetuning.yaml": "rank: 16\n",
    "tasks/__init__.py": "",
    "data/raw/rows": "row\n",
}
# What a night asks of places, in a process of its own.
NIGHT = """
import contextlib, json, os, sys
from pathlib import Path
from dvc.cli import main as dvc
from flows.environment import find_stores, open_checkout
from flows.graph import cache_folder, has_remote, read_stage
from flows.workspace import choose_workspace, prepare
from tasks.orchestration.run_content import param_values
from tasks.orchestration.tracking import Tracker

def night(root):
    checkout = open_checkout(root)
    workspace = choose_workspace(checkout, None, ["finetuning.rank=2"])
    prepare(workspace)
    with contextlib.chdir(workspace.path):
        for arguments in (["add", "data/raw"], ["repro"], ["push"]):
            assert dvc(["-q", *arguments]) == 0, arguments
    assert read_stage(workspace.path, "making").current
    tracker = Tracker(find_stores(checkout))
    run = tracker.begin_night("n1", {})
    tracker.log_params(run, checkout, ["params/ingestion.yaml"])
    tracker.log_files(run, [checkout / "dvc.yaml"], "versions")
    tracker.end(run, finished=True)
    kept = tracker.kept(run.run_id)
    return {"cache": str(cache_folder(workspace.path)), "params": sorted(kept.params)}

given, found = dict(os.environ), {}
for name in sys.argv[1:]:
    os.environ.clear()
    os.environ.update(given)
    found[name] = night(Path(name))
print(json.dumps(found))
"""


def make(root: Path, empty_store: Path) -> Path:
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    shutil.copyfile("params/paths.yaml", root / "params" / "paths.yaml")
    (root / ".nightloom").mkdir(mode=0o700)
    shutil.copyfile(empty_store, root / ".nightloom" / "mlflow.db")
    return root


def outside(folder: Path, checkout: Path) -> list[str]:
    """Every file and folder beside a checkout but the remote's, which its config names."""
    remote = checkout.parent / "remote"
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path not in checkout.parents
        and not any(path.is_relative_to(own) for own in (checkout, remote))
    )


def live(checkouts: list[Path], environment: dict[str, str], **how: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", NIGHT, *map(str, checkouts)], cwd="/", env=environment,
        capture_output=True, text=True, check=False, **how,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def bare(home: Path) -> dict[str, str]:
    """As a systemd unit or cron has it: no locale, no terminal, no settings."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(Path.cwd())}


def check(checkout: Path, said: dict[str, Any]) -> None:
    """All is in the checkout, its cache too, and what only its owner may read is closed."""
    assert outside(checkout.parent, checkout) == []
    assert said["cache"] == str(checkout / ".dvc" / "cache" / "files" / "md5")
    names = ["3", "Question :28:EN:29:", "질문"]
    assert said["params"] == [f"ingestion.columns.{name}" for name in names]
    pushed = checkout.parent / "remote" / "files" / "md5"
    assert any(path.is_file() for path in pushed.rglob("*")), "nothing was pushed"
    assert stat.S_IMODE((checkout / ".nightloom" / "private").stat().st_mode) == 0o700


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_night_stays_in_its_checkout_whatever_that_is_called(
    umask: int, empty_store: Path, tmp_path: Path
) -> None:
    around = tmp_path / "around"
    names = list(enumerate(NAMES))[bool(umask) :: 2]
    checkouts = [make(around / f"in {number}" / name, empty_store) for number, name in names]
    found = live(checkouts, bare(tmp_path / "home"), umask=umask)
    for checkout in checkouts:
        check(checkout, found[str(checkout)])


@pytest.mark.slow
def test_a_night_of_another_user_stays_in_its_checkout(empty_store: Path) -> None:
    """With no name in /etc/passwd, as in a container."""
    account = {"user": 54321, "group": 54321, "extra_groups": []}
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    try:
        subprocess.run([sys.executable, "-c", ""], cwd="/", check=True, **account)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"another user may not run {sys.executable}")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        around = Path(folder)
        checkout = make(around / "checkout", empty_store)
        for path in (around, *around.rglob("*")):
            os.chown(path, 54321, 54321)
        check(checkout, live([checkout], bare(around / "checkout"), **account)[str(checkout)])
