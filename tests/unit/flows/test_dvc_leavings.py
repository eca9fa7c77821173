"""What a killed DVC leaves is mended before a night's stages run, and what lives is left alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.dvc_leavings import mend_leavings
from flows.graph import read_stage
from tests.builders.dvc_project import ran_project, repro

pytestmark = pytest.mark.slow
GONE = 2**22 + 7  # no process has this pid: Linux counts to 2^22


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one stage ran."""
    files = {
        "data/raw/rows": "a\n",
        "dvc.yaml": (
            "stages:\n  first:\n    cmd: cp -r data/raw data/first\n"
            "    deps: [data/raw]\n    outs: [data/first]\n"
        ),
    }
    return ran_project(tmp_path, files)


def busy(project: Path, pid: int) -> Path:
    """DVC's list of who uses what, as a process leaves it."""
    path = project / ".dvc" / "tmp" / "rwlock"
    out = str(project / "data" / "first")
    path.write_text(json.dumps({"write": {out: {"pid": pid, "cmd": "dvc repro"}}, "read": {}}))
    return path


@pytest.mark.parametrize("pid", [1, GONE])
def test_a_list_that_names_nobody_who_lives_or_another_with_the_pid_is_deleted(
    pid: int, project: Path
) -> None:
    path = busy(project, pid)
    [told] = mend_leavings(project)
    assert told == f"{path} named no process that lives: it is deleted"
    (project / "data" / "raw" / "rows").write_text("b\n")
    assert "Running stage 'first':" in repro(project)


def test_a_list_that_was_cut_short_is_deleted(project: Path) -> None:
    busy(project, GONE).write_text('{"write": {"/data')
    assert len(mend_leavings(project)) == 1
    (project / "data" / "raw" / "rows").write_text("b\n")
    assert "Running stage 'first':" in repro(project)


def test_a_dvc_that_lives_keeps_its_list(project: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dvc", "repro"])
    try:
        time.sleep(0.5)
        path = busy(project, other.pid)
        assert mend_leavings(project) == []
        assert path.exists()
    finally:
        other.kill()
        other.wait()


def test_a_process_that_began_after_the_list_was_written_is_not_the_one_it_names(
    project: Path,
) -> None:
    import os

    path = busy(project, os.getpid())
    os.utime(path, (1.0e9, 1.0e9))
    assert len(mend_leavings(project)) == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_lock_file_that_was_cut_short_is_put_aside_and_the_stage_is_restored(
    share: float, project: Path
) -> None:
    path = project / "dvc.lock"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    mend_leavings(project)
    assert not read_stage(project, "first").current
    assert any("is cached - skipping run" in line for line in repro(project))
    assert path.read_bytes() == content


def test_what_is_whole_stays(project: Path) -> None:
    content = (project / "dvc.lock").read_bytes()
    assert mend_leavings(project) == []
    assert (project / "dvc.lock").read_bytes() == content
    (project / "dvc.lock").unlink()
    assert mend_leavings(project) == []
