"""What we advise loses nothing that a version, a workspace or an earlier night needs."""

import ast
import contextlib
import errno
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dvc.cli import main as dvc_main
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.doctor import Check
from flows.workspace import choose_workspace, prepare
from tasks.stage.command import run_stage
from tasks.stage.errors import DataError, Failure
from tasks.stage.outputs import verified, write_manifest
from tasks.stage.params import StageParams
from tasks.validation.raw_rows import bring_back

# By its path: `flows.cli` has a function of the same name.
checkup = importlib.import_module("flows.cli.doctor")
# What deletes, by command; a person who is told one may type it as it stands.
DESTROYING = re.compile(
    r"dvc gc|gc --workspace|gc -w|\brm -|git clean|git reset|checkout (--force|-f)\b|make clean"
)
DELETES = re.compile(r"(?i)\b(deleted?|removed?|erased?|wiped?|take\b.* away)\b")
# The only remedies that delete, and why nothing but time is lost by them.
HARMLESS = {
    "flows/credentials.py": "a random secret and a cache, both made again",
    "tasks/stage/command.py": "scratch: checkpoints and memos",
    "tasks/distillation/teacher.py": "a memo",
    "tasks/ingestion/erasure.py": "`nightloom erase --prove`, which shows and erases nothing",
    "tasks/registry/transactions.py": "a tag that says nothing, noted down before",
}
SHOWN = [
    *sorted(Path("flows").rglob("*.py")), *sorted(Path("tasks").rglob("*.py")),
    *sorted(Path("params").rglob("*.yaml")),
    # The log advises nothing: it may say what a command destroyed.
    *(path for path in sorted(Path("docs").rglob("*.md")) if path.name != "LOG.md"),
    Path("README.md"), Path("CONTRIBUTING.md"), Path("SECURITY.md"), Path("prefect.yaml"),
]  # fmt: skip


def texts(tree: ast.AST) -> Iterator[str]:
    """Whole string constants and f-strings, the parts of which are not told apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Constant):
            yield text_of(node)


def text_of(node: ast.AST) -> str:
    parts = [found.value for found in ast.walk(node) if isinstance(found, ast.Constant)]
    return "".join(part for part in parts if isinstance(part, str))


def remedies(tree: ast.AST) -> Iterator[str]:
    """The second argument of every error, and what is called a remedy or gives one."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[_, remedy, *_]) if name.endswith("Error"):
                yield text_of(remedy)
            case ast.Call(func=ast.Name(id="Finding" | "_finding"), args=[*_, remedy]):
                yield text_of(remedy)
            case ast.Assign(targets=[ast.Name(id="remedy" | "_REMEDY" | "RESTORE")], value=remedy):
                yield text_of(remedy)
            case ast.FunctionDef(name="room" | "bring_back" | "_remedy"):
                yield from (
                    text_of(n.value)
                    for n in ast.walk(node)
                    if isinstance(n, ast.Return) and n.value
                )


@pytest.mark.slow
def test_no_text_names_a_command_that_destroys() -> None:
    found = []
    for path in SHOWN:
        content = path.read_text(encoding="utf-8")
        shown = texts(ast.parse(content)) if path.suffix == ".py" else [content]
        found += [(str(path), hit[0]) for text in shown if (hit := DESTROYING.search(text))]
    assert found == []


@pytest.mark.slow
def test_no_remedy_deletes_but_those_that_cost_time_alone() -> None:
    deleting = {
        path.as_posix()
        for path in SHOWN
        if path.suffix == ".py"
        for remedy in remedies(ast.parse(path.read_text(encoding="utf-8")))
        if DELETES.search(remedy)
    }
    assert deleting == set(HARMLESS)


@pytest.mark.slow
def test_make_clean_leaves_data_scratch_and_stores() -> None:
    shown = subprocess.run(
        ["make", "--dry-run", "clean"], capture_output=True, text=True, check=True
    ).stdout
    assert "rm -rf .venv" in shown
    assert "data" not in shown
    assert ".nightloom" not in shown


def run_dvc(at: Path, *arguments: str) -> int:
    """Run DVC's command in a folder, without the seconds of a process of its own."""
    with contextlib.chdir(at):
        return int(dvc_main([*arguments]))


@dataclass(frozen=True)
class Kept:
    """A checkout with two nights' data and a workspace with rows of its own."""

    root: Path
    first: dict[str, str]
    workspace: Path
    rows: str

    def dvc(self, *arguments: str, at: Path | None = None) -> None:
        assert run_dvc(at or self.root, *arguments) == 0

    def check(self) -> None:
        """The second night, the workspace and the first night are all there, or come back."""
        raw = Path("data/raw/intakes")
        assert (self.root / raw / "two" / "records.jsonl").read_text() == "second\n"
        shutil.rmtree(self.workspace / "data" / "raw")
        self.dvc("checkout", "data/raw.dvc", at=self.workspace)
        assert (self.workspace / raw / "own" / "records.jsonl").read_text() == self.rows
        for name, text in self.first.items():
            (self.root / name).write_text(text)
        self.dvc("checkout")
        assert [path.name for path in (self.root / raw).iterdir()] == ["one"]
        assert (self.root / raw / "one" / "records.jsonl").read_text() == "first\n"
        assert (self.root / "data" / "made").read_text() == "first\n"


STAGES = """
stages:
  making:
    cmd: cat data/raw/intakes/*/records.jsonl > data/made
    deps: [data/raw]
    outs: [data/made]
"""


def take_in(root: Path, name: str, text: str) -> None:
    intake = root / "data" / "raw" / "intakes" / name
    intake.mkdir(parents=True)
    (intake / "records.jsonl").write_text(text)
    write_manifest(intake)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    root = tmp_path / "checkout"
    shutil.copytree("params", root / "params")
    (root / "tasks").mkdir()
    for name in ("prefect.yaml", ".dvcignore", ".gitignore"):
        shutil.copyfile(name, root / name)
    (root / "dvc.yaml").write_text(STAGES)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    made = Kept(root, {}, tmp_path, "")
    made.dvc("init")
    take_in(root, "one", "first\n")
    made.dvc("add", "data/raw")
    made.dvc("repro")
    first = {name: (root / name).read_text() for name in ("dvc.lock", "data/raw.dvc")}
    take_in(root, "two", "second\n")
    made.dvc("add", "data/raw")
    workspace = choose_workspace(root, None, ["finetuning.rank=2"])
    prepare(workspace)
    take_in(workspace.path, "own", "rows of the workspace\n")
    made.dvc("add", "data/raw", at=workspace.path)
    for place in (root, workspace.path):
        (place / "data" / "scratch" / "finetuning").mkdir(parents=True)
        (place / "data" / "scratch" / "finetuning" / "memo").write_text("x" * 10_000)
    return Kept(root, first, workspace.path, "rows of the workspace\n")


def follow(root: Path, advice: str) -> None:
    """Do what an advice says, word by word: its commands as they stand, then what may go."""
    for text in re.findall(r"`([^`]+)`", advice):
        program, *arguments = shlex.split(text)
        if program == "dvc":
            # A person says yes to what is asked.
            run_dvc(root, *arguments, *(["--force"] if arguments[:1] == ["gc"] else []))
        elif program == "nightloom":
            with contextlib.chdir(root):
                CliRunner().invoke(app, arguments)
        else:
            assert program == "pip"
            subprocess.run(
                [sys.executable, "-m", program, *arguments], check=False, capture_output=True,
                env=os.environ | {"PIP_CACHE_DIR": str(root.parent / "pip")},
            )  # fmt: skip
    found = re.search(r"of what Nightloom made, (.+?) alone may be deleted", advice)
    for pattern in found[1].split(" and ") if found else []:
        folders = [Path(pattern)] if Path(pattern).is_absolute() else list(root.glob(pattern))
        assert folders
        for folder in folders:
            shutil.rmtree(folder)


def disk(root: Path, needed: float, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setattr(checkup, "_DISK_GB", needed)
    return checkup._disk(root)


class Numbers(StageParams):
    count: int


class Params(StageParams):
    numbers: Numbers


@dataclass(frozen=True)
class Paths:
    scratch: Path


def stage_remedy(root: Path) -> str:
    """What a stage says that finds the disk full."""

    def fill(params: Params, paths: Paths) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (root.parent / "numbers.yaml").write_text("count: 3\n")
    scratch = root / "data" / "scratch"
    options = ["--params", str(root.parent / "numbers.yaml"), "--scratch", str(scratch)]
    assert run_stage("counting", Params, Paths, fill, options) == 1
    failure = Failure.read(scratch / "counting")
    assert failure is not None
    assert "no space left" in failure.message
    assert "`nightloom doctor`" in failure.remedy
    return failure.remedy.replace("`nightloom doctor`", "the doctor")


@pytest.mark.slow
def test_what_is_said_of_a_full_disk_loses_no_data(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disk(kept.root, 0.0, monkeypatch).passed
    finding = disk(kept.root, 1e9, monkeypatch)
    assert not finding.passed
    for name in ("checkpoints and memos", "DVC's cache", "workspaces", "versions and reports"):
        assert re.search(rf"{name} \d+\.\d GB", finding.found)
    scratch = kept.root / "data" / "scratch"
    assert scratch.exists()
    follow(kept.root, stage_remedy(kept.root))
    assert not scratch.exists()
    scratch.mkdir(exist_ok=True)
    follow(kept.root, finding.remedy)
    assert not scratch.exists()
    assert not (kept.workspace / "data" / "scratch").exists()
    kept.check()


@pytest.mark.slow
def test_what_is_said_of_a_damaged_intake_loses_no_row(kept: Kept) -> None:
    raw = kept.root / "data" / "raw" / "intakes"
    take_in(kept.root, "three", "third\n")  # and not yet recorded
    aside = kept.root.parent / "aside"
    for name, text, recorded in (("two", "second\n", True), ("three", "third\n", False)):
        intake = raw / name
        (intake / "manifest.json").write_text("damaged")
        with pytest.raises(DataError) as caught:
            verified(intake)
        for remedy in (caught.value.remedy, bring_back(intake)):
            assert f"move {intake} out of {raw}" in remedy
            shutil.move(intake, aside)
            [command] = [t for t in re.findall(r"`([^`]+)`", remedy) if t.startswith("dvc")]
            run_dvc(kept.root, *shlex.split(command)[1:])
            assert intake.exists() == recorded
            assert (aside / "records.jsonl").read_text() == text
            shutil.rmtree(intake, ignore_errors=True)
            shutil.move(aside, intake)
