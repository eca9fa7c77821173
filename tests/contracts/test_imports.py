"""Who may import whom: the contracts of pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_imports_keep_the_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
