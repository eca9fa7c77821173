"""What nights left behind goes by rule; what a version, a workspace or a branch needs stays."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc.cli import main as dvc_main
from typer.testing import CliRunner

from flows.cli import app
from flows.kept_data import unneeded_data
from flows.retention import delete_leavings, review_leavings
from flows.workspace import choose_workspace, night_lock, prepare
from tasks.orchestration.tracking import Tracker
from tasks.stage.errors import ConfigError
from tests.builders.registry import Shop

pytestmark = pytest.mark.slow

STAGES = """
stages:
  making:
    cmd: mkdir -p data/made && cat data/raw/rows > data/made/all && wc data/raw/rows > data/made/n
    deps: [data/raw]
    outs: [data/made]
"""
NIGHTS = ["version", "tagged", "nobody's", "worker", "last"]


def run_dvc(at: Path, *arguments: str) -> None:
    with contextlib.chdir(at):
        assert dvc_main(["-q", *arguments]) == 0


def git(at: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=at, check=True, capture_output=True)


@dataclass(frozen=True)
class Kept:
    """A checkout of five nights, and each one's locks and run."""

    root: Path
    shop: Shop
    locks: dict[str, dict[str, str]]
    runs: dict[str, str]
    workspace: Path

    def bring_back(self, night: str, at: Path | None = None) -> str:
        place = at or self.root
        for name, text in self.locks[night].items():
            (place / name).write_text(text)
        run_dvc(place, "checkout", "--force")
        return (place / "data" / "made" / "all").read_text()

    def reports(self) -> list[str]:
        folders = {name: self.shop.root / "artifacts" / self.runs[name] for name in NIGHTS}
        return [name for name, folder in folders.items() if any(folder.rglob("*.html"))]


def make_night(root: Path, name: str) -> dict[str, str]:
    (root / "data" / "raw").mkdir(parents=True, exist_ok=True)
    (root / "data" / "raw" / "rows").write_text(f"rows of {name}\n" * 50)
    run_dvc(root, "add", "data/raw")
    run_dvc(root, "repro")
    return {file: (root / file).read_text() for file in ("dvc.lock", "data/raw.dvc")}


@pytest.fixture
def kept(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "checkout"
    shutil.copytree("params", root / "params")
    for name in ("prefect.yaml", ".dvcignore", ".gitignore"):
        shutil.copyfile(name, root / name)
    (root / "tasks").mkdir()
    (root / "dvc.yaml").write_text(STAGES)
    settings = yaml.safe_load((root / "params" / "retention.yaml").read_text())
    (root / "params" / "retention.yaml").write_text(yaml.safe_dump(settings | {"nights": 1}))
    git(root, "init", "--quiet")
    run_dvc(root, "init")
    run_dvc(root, "remote", "add", "--default", "here", str(tmp_path / "remote"))
    shop = Shop.open(root / ".nightloom", empty_store)
    tracker, locks, runs = Tracker(shop.stores), {}, {}
    workspace = choose_workspace(root, None, ["finetuning.rank=2"])
    prepare(workspace)
    for name in NIGHTS:
        place = workspace.path if name == "worker" else root
        locks[name] = make_night(place, name)
        run = tracker.begin_night(name, {})
        tracker.note(run, stages={})
        inputs = [*locks[name], "params"]  # as a night logs them
        tracker.log_files(run, [place / file for file in inputs], "versions")
        report = tmp_path / "report.html"
        report.write_text(name)
        tracker.log_files(run, [report], "reports")
        tracker.end(run, finished=True)
        runs[name] = run.run_id
        if name == "version":
            shop.registry.register("adapter", "k" * 64, lambda: shop.folder("it"), run, {})
        if name == "tagged":
            git(root, "add", "--force", "dvc.lock", "data/raw.dvc")
            git(root, "commit", "--quiet", "-m", name)
            git(root, "tag", "v1")
            git(root, "rm", "--quiet", "--cached", "dvc.lock", "data/raw.dvc")
            git(root, "commit", "--quiet", "-m", "without")
        if name in ("version", "nobody's"):
            run_dvc(root, "push")
    return Kept(root, shop, locks, runs, workspace.path)


def test_data_that_nothing_needs_goes_and_all_else_can_be_brought_back(kept: Kept) -> None:
    files = {path: path.read_bytes() for path in kept.root.rglob("*") if path.is_file()}
    found = review_leavings(kept.root)
    shown = CliRunner().invoke(app, ["prune", "--data", "--root", str(kept.root)])
    assert "nothing was deleted; say --yes" in shown.stdout, shown.output
    assert {path for path in kept.root.rglob("*") if path.is_file()} >= set(files)
    assert len(found.data.objects) == 4, "the folders raw and made, the rows, their count"
    assert found.data.only_here(kept.root) == 0
    assert kept.reports() == NIGHTS
    told = CliRunner().invoke(app, ["prune", "--data", "--yes", "--json", "--root", str(kept.root)])
    assert json.loads(told.stdout)["deleted"], told.output
    assert kept.reports() == ["version", "last"]
    for name in ("version", "tagged", "last"):
        assert kept.bring_back(name) == f"rows of {name}\n" * 50
    assert kept.bring_back("worker", kept.workspace).startswith("rows of worker")
    with contextlib.chdir(kept.root):
        for name, text in kept.locks["nobody's"].items():
            Path(name).write_text(text)
        assert dvc_main(["-q", "checkout", "--force"]) != 0
    run_dvc(kept.root, "pull", "--force")  # the remote's are never deleted
    assert (kept.root / "data" / "made" / "all").read_text().startswith("rows of nobody's")


def test_data_goes_of_no_cache_that_others_may_share_and_while_no_night_runs(
    kept: Kept, tmp_path: Path
) -> None:
    with (
        night_lock(kept.workspace / ".nightloom" / "night.lock"),
        pytest.raises(ConfigError, match="a night is running"),
    ):
        delete_leavings(kept.root)
    run_dvc(kept.root, "config", "cache.dir", str(tmp_path / "shared"))
    with pytest.raises(ConfigError, match="others may use it"):
        unneeded_data(kept.root, {})


def age(path: Path, days: float) -> None:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    for file in files:
        os.utime(file, (time.time() - days * 86_400,) * 2)


def put(path: Path, text: str, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    age(path, days)
    return path


def test_what_is_old_goes_and_what_is_young_used_or_elsewhere_stays(
    kept: Kept, tmp_path: Path
) -> None:
    state = kept.root / ".nightloom"
    elsewhere = put(tmp_path / "elsewhere" / "theirs", "x", 999)
    (kept.root / "data" / "scratch").mkdir()
    (kept.root / "data" / "scratch" / "linked").symlink_to(elsewhere.parent)
    goes = [
        put(state / "nights" / "2020-01-01T000000Z.json", "{}", 401),
        put(state / "before-upgrade" / "mlflow-2020-01-01T000000Z.db", "x", 401),
        put(state / "logs" / "2020-01-01T000000Z.log", "x", 61),
        put(state / "downloads" / "nightloom-adapter" / "7" / "weights", "x", 15),
        put(kept.root / "data" / "scratch" / "finetuning" / "checkpoint" / "x", "x", 31),
    ]
    stays = [
        put(state / "nights" / "2026-01-01T000000Z.json", "{}", 399),
        put(state / "before-upgrade" / "mlflow-2026-01-01T000000Z.db", "x", 399),
        put(state / "logs" / "2026-01-01T000000Z.log", "x", 59),
        put(state / "downloads" / "nightloom-adapter" / "1" / "weights", "x", 15),
        put(kept.root / "data" / "scratch" / "finetuning" / "memo", "x", 29),
        elsewhere,
    ]
    kept.shop.client.set_registered_model_alias("nightloom-adapter", "candidate", "1")
    server = put(state / "logs" / "prefect.log", "line\n" * 11_000_000, 0)
    with server.open("a") as stream:
        delete_leavings(kept.root)
        stream.write("more\n")
    assert [path for path in goes if path.exists()] == []
    assert [path for path in stays if not path.exists()] == []
    assert server.read_text() == "more\n"
    assert server.with_name("prefect.log.1").stat().st_size == 55_000_000
    assert kept.workspace.exists()
    for name in (".nightloom/night.lock", "dvc.lock", "params"):
        age(kept.workspace / name, 91)
    assert kept.workspace in review_leavings(kept.root).leavings[2].paths
