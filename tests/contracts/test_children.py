"""Whoever starts a process outside of a stage has it supervised, so that none outlives us."""

import ast
from pathlib import Path

import pytest

STARTS = {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"}
OF_OS = {"fork", "forkpty", "popen", "posix_spawn", "posix_spawnp", "system"}
FILES = [
    path
    for folder in ("flows", "tasks/orchestration")
    for path in sorted(Path(folder).rglob("*.py"))
    if path.name != "supervisor.py"
]


def unsupervised(text: str) -> list[int]:
    """The lines that start a process otherwise than by `supervised`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) and "multiprocessing" in ast.dump(node):
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module == "subprocess":
            found.append(node.lineno)  # called by name, it would not be seen
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        whose, what = ast.unparse(node.func.value), node.func.attr
        if whose == "os" and (what in OF_OS or what.startswith("spawn")):
            found.append(node.lineno)
        if whose == "subprocess" and what in STARTS:
            first = node.args[0] if node.args else None
            if not (isinstance(first, ast.Call) and ast.unparse(first.func) == "supervised"):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_process_is_supervised(path: Path) -> None:
    assert unsupervised(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['ls'])",
        "subprocess.Popen(command, cwd=root)",
        "os.system('ls')",
        "import multiprocessing",
        "from subprocess import run",
    ],
)
def test_one_that_is_not_is_found(text: str) -> None:
    assert unsupervised(text) == [1]
