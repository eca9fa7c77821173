"""A wheel holds all that our code reads, and works where no checkout is."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest

from tasks.records.schema import read_rows
from tests.unit.curation.test_curation import many, record, sentence
from tests.unit.curation.test_stage import accepted_rows

ROOT = Path(__file__).parents[2]


def files_of_code() -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "flows", "tasks"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our wheel unpacked; the libraries come from the environment."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE", *files_of_code()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", *build, "--wheel-dir", str(wheels), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = wheels.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(installed: Path, at: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(installed)
    whole = [sys.executable, *command]
    return subprocess.run(
        whole, cwd=at, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_every_file_of_code_is_in_the_wheel(installed: Path) -> None:
    assert [name for name in files_of_code() if not (installed / name).is_file()] == []


@pytest.mark.slow
def test_help_is_shown_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, "-m", "flows.cli", "--help")
    assert done.returncode == 0, done.stderr
    assert "rollback" in done.stdout
    shown = run_installed(installed, tmp_path, "-c", "import flows; print(flows.__file__)")
    assert shown.stdout.strip() == str(installed / "flows" / "__init__.py")


@pytest.mark.slow
def test_a_stage_runs_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    records = [*many(150), record("same", "What is " + sentence(3) + "?", sentence(5003, 5))]
    paths = accepted_rows(tmp_path, records)
    options = {f"--{field.name}": getattr(paths, field.name) for field in fields(paths)}
    options = {name: str(value) for name, value in options.items() if isinstance(value, Path)}
    params = str(ROOT / "params" / "curation.yaml")
    named = [word for pair in options.items() for word in pair]
    done = run_installed(installed, tmp_path, "-m", "tasks.curation", "--params", params, *named)
    assert done.returncode == 0, done.stderr
    assert len(list(read_rows(paths.curated / "lineage.jsonl"))) == 151
