"""What an edit to a package makes stale: the table, the imports and DVC say the same."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from tests.contracts.test_stages import PATHS, PIPELINE, STAGES, packages

TABLE: dict[str, list[str]] = yaml.safe_load(
    Path(__file__).with_name("stale_stages.yaml").read_text(encoding="utf-8")
)
TASKS = Path("tasks")


def test_the_table_names_every_package() -> None:
    found = {path.parent.name for path in TASKS.glob("*/__init__.py")}
    assert set(TABLE) == found


def test_the_table_says_what_the_imports_say() -> None:
    stale: dict[str, list[str]] = {name: [] for name in TABLE}
    for stage in STAGES:
        for package in packages(stage):
            stale[package.removeprefix("tasks/")].append(stage)
    assert stale == TABLE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """A checkout whose stages are all up to date: our graph and packages, small files as data."""
    root = tmp_path_factory.mktemp("built")
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(name, root / name)
    shutil.copytree("params", root / "params")
    for package in TABLE:
        (root / TASKS / package).mkdir(parents=True)
        (root / TASKS / package / "module.py").write_text("VALUE = 1\n")
    for stage in STAGES:
        for path in (*PIPELINE["stages"][stage]["deps"], *PIPELINE["stages"][stage]["outs"]):
            place = root / resolved(path)
            if not place.exists():
                (place.parent if place.suffix else place).mkdir(parents=True, exist_ok=True)
                (place if place.suffix else place / "file").write_text("{}\n")
    with contextlib.chdir(root), Repo.init(no_scm=True) as repo:
        repo.commit(force=True)
    with Repo(str(root)) as repo:
        yield repo


def resolved(path: str) -> str:
    return str(PATHS[path[2:-1]]) if path.startswith("${") else path


def stale_stages(repo: Repo) -> list[str]:
    """Return the stages that `dvc status` names, in the graph's order.

    As `Repo.status` does it, but that the graph is read once for all packages.
    """
    with contextlib.chdir(repo.root_dir), repo.lock:
        named = {stage.name for stage in repo.index.stages if stage.status()}
    return [stage for stage in STAGES if stage in named]


@pytest.mark.slow
@pytest.mark.parametrize("package", TABLE)
def test_dvc_calls_stale_what_the_table_says(built: Repo, package: str) -> None:
    module = Path(built.root_dir) / TASKS / package / "module.py"
    before = module.read_text()
    module.write_text(before + "# edited\n")
    try:
        assert stale_stages(built) == TABLE[package]
    finally:
        module.write_text(before)
