"""A checkout's files in a folder of their own, and its own commands run there."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What would let a command find another store, server or package than the clone's.
_OURS = ("PREFECT_", "MLFLOW_", "NIGHTLOOM_", "PYTEST_", "PYTHONDONTWRITEBYTECODE")
_LIMIT_SECONDS = 7200


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the JSON object that it printed.

        Raises:
            RuntimeError: it printed none.
        """
        try:
            return json.loads(self.out)
        except ValueError:
            told = f"no JSON came (exit code {self.code}): {self.err[-3000:]}"
            raise RuntimeError(told) from None


@dataclass(frozen=True)
class Clone:
    """The folder of a clone; commands of every commit are run in it, and nothing is imported."""

    root: Path

    @classmethod
    def make(cls, checkout: Path, root: Path) -> "Clone":
        """Copy the files that git knows or would add, as they are now, into an empty folder."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(listed, cwd=checkout, capture_output=True, text=True, check=True)
        root.mkdir(parents=True)
        for name in filter(None, done.stdout.split("\0")):
            if (checkout / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes((checkout / name).read_bytes())
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        return cls(root)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a command: the clone's code first, plain text of a width."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        plain = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        return kept | plain | {"PYTHONPATH": str(self.root)} | dict(more or {})

    def run(self, *command: str) -> Ran:
        """Run `python -m MODULE ...` in the clone."""
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.root, env=self.environment(),
            capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    def nightloom(self, *arguments: str) -> Ran:
        """Run the `nightloom` command, which is `flows.cli` at every commit."""
        return self.run("flows.cli", *arguments)


def commit(checkout: Path) -> str:
    """Return the commit that a checkout stands at, and whether files differ from it."""

    def git(*words: str) -> str:
        command: Sequence[str] = ["git", "-C", str(checkout), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain") else "")
