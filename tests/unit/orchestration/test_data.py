"""Rows that git names and another machine took in: brought before a night takes in its own."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows.graph import lacks_files
from tasks.orchestration.data import bring_rows
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError
from tests.builders.dvc_project import write_project

pytestmark = pytest.mark.slow
RAW = "data/raw"


@dataclass(frozen=True)
class Machine:
    """A checkout without git, whose `raw.dvc` the test carries over as `git pull` does."""

    root: Path

    @classmethod
    def make(cls, root: Path, remote: Path) -> "Machine":
        config = (
            f"[core]\n    no_scm = true\n    remote = it\n['remote \"it\"']\n    url = {remote}\n"
        )
        return cls(write_project(root, {".dvc/config": config, ".dvcignore": ""}))

    def takes_in(self, name: str) -> None:
        (self.root / RAW).mkdir(parents=True, exist_ok=True)
        (self.root / RAW / name).write_text(f"rows of {name}")

    def dvc(self, *arguments: str) -> None:
        child = run_child(["python", "-m", "dvc", "--quiet", *arguments], self.root)
        assert child.code == 0, child.lines

    def shares(self, name: str, other: "Machine") -> None:
        self.takes_in(name)
        self.dvc("add", RAW)
        self.dvc("push")
        (other.root / "data").mkdir(exist_ok=True)
        shutil.copyfile(self.root / f"{RAW}.dvc", other.root / f"{RAW}.dvc")

    def brings(self) -> list[str]:
        if lacks_files(self.root, f"{RAW}.dvc"):
            with disable_run_logger():
                bring_rows.fn(self.root, RAW, remote=True)
        return sorted(path.name for path in (self.root / RAW).iterdir())


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Machine, Machine]:
    here, there = (Machine.make(tmp_path / name, tmp_path / "remote") for name in "ab")
    return here, there


def test_a_fresh_clone_and_one_after_git_pull_get_the_rows(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    here.shares("first", there)
    assert there.brings() == ["first"]
    assert not lacks_files(there.root, f"{RAW}.dvc")
    here.shares("second", there)
    assert there.brings() == ["first", "second"]
    there.takes_in("third")  # and the night was killed before DVC knew of it
    assert there.brings() == ["first", "second", "third"]


def test_rows_that_dvc_does_not_hold_are_not_deleted_for_those_of_git(
    machines: tuple[Machine, Machine],
) -> None:
    here, there = machines
    here.shares("first", there)
    there.takes_in("own")
    with pytest.raises(ConfigError, match="dvc pull"):
        there.brings()
    assert (there.root / RAW / "own").read_text() == "rows of own"


def test_an_emptied_cache_beside_whole_rows_asks_the_remote_for_nothing(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    here, there = machines
    here.shares("first", there)
    shutil.rmtree(here.root / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    assert here.brings() == ["first"]
