"""`make test-fast` refuses a test that starts a process, and runs one that starts none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = """
import subprocess, sys

def test_none():
    assert sys.executable

def test_a_process():
    subprocess.run([sys.executable, "-c", ""], check=True)
"""


@pytest.mark.parametrize(("expression", "failed"), [("not slow", 1), ("not gpu", 0)])
def test_a_test_that_starts_a_process_is_refused_where_only_fast_ones_run(
    tmp_path: Path, expression: str, failed: int
) -> None:
    (tmp_path / "test_two.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", tmp_path,
         "-m", expression, tmp_path],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == failed, done.stdout
    told = "test_a_process (call) starts a process: mark it with pytest.mark.slow"
    assert (told in done.stdout) == bool(failed)
    assert f"{2 - failed} passed" in done.stdout
