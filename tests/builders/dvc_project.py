"""Small projects of DVC's, and its own command run in them."""

from collections.abc import Mapping
from pathlib import Path

from tasks.services.processes import run_child


def write_project(root: Path, files: Mapping[str, str]) -> Path:
    """Write files into a folder, beside a config without git; return the folder."""
    for name, text in {".dvc/config": "[core]\n    no_scm = true\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def repro(project: Path) -> list[str]:
    """Let DVC reproduce the stage `first`, which must go well; return its lines."""
    child = run_child(["python", "-m", "dvc", "repro", "--single-item", "first"], project)
    assert child.code == 0, child.lines
    return list(child.lines)


def ran_project(root: Path, files: Mapping[str, str]) -> Path:
    """Write a project and run its stage `first`; return its folder."""
    assert "Running stage 'first':" in repro(write_project(root, files))
    return root
