"""What `nightloom doctor` says of places that other users of the machine can look into."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.doctor import _permissions
from flows.environment import open_checkout
from flows.permissions import close_places, open_places

PLACES = (".nightloom", "data", ".dvc/cache", ".dvc/tmp")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "params").mkdir()
    shutil.copy2(Path("params/paths.yaml"), tmp_path / "params")
    for name in ("dvc.yaml", "prefect.yaml"):
        (tmp_path / name).touch()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    for name in PLACES:
        (tmp_path / name).mkdir(mode=0o700)
    return tmp_path


def test_closed_places_are_well_whatever_lies_inside(checkout: Path) -> None:
    (checkout / ".nightloom" / "mlflow.db").touch(mode=0o666)
    assert open_places(checkout) == []
    assert _permissions(checkout).passed


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o755, 0o777])
@pytest.mark.parametrize("name", PLACES)
def test_an_open_place_is_told_and_closed(checkout: Path, name: str, mode: int) -> None:
    outside = checkout / "outside"
    outside.mkdir(mode=0o755)
    (checkout / name).chmod(mode)
    found = _permissions(checkout)
    assert (found.passed, found.found.rpartition(" ")[2]) == (False, name)
    assert "doctor --fix" in found.remedy
    assert close_places(checkout) == [Path(name)]
    assert _permissions(checkout).passed
    assert (checkout / name).stat().st_mode & 0o777 == mode & 0o700
    assert outside.stat().st_mode & 0o777 == 0o755  # is not ours to close


@pytest.mark.parametrize(("rows", "mode"), [((), 0o700), (("raw",), 0o755)])
def test_the_first_command_in_a_clone_closes_the_folder_that_git_made(
    checkout: Path, rows: tuple[str, ...], mode: int
) -> None:
    """Somebody's own folder is told, and stays as it is."""
    (checkout / ".nightloom").rmdir()
    data = checkout / "data"
    data.chmod(0o755)
    for name in ("README.md", "raw.dvc"):
        (data / name).touch()
    for name in rows:
        (data / name).mkdir()
    assert open_checkout(checkout) == checkout
    assert data.stat().st_mode & 0o777 == mode
    assert _permissions(checkout).passed == (not rows)


@pytest.mark.slow
def test_whatever_the_users_umask_is_a_command_writes_for_him_alone(checkout: Path) -> None:
    shutil.rmtree(checkout / ".nightloom")
    code = (
        "import sys; from pathlib import Path; from flows.environment import set_environment;"
        "from tasks.services.processes import run_child; root = Path(sys.argv[1]);"
        "set_environment(root); run_child(['sh', '-c', 'mkdir data/new; touch data/new/a'], root)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(checkout)], check=True, umask=0,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    made = [*(checkout / ".nightloom").rglob("*"), *(checkout / "data").rglob("*")]
    own = [path for path in [checkout / ".nightloom", *made] if "private/dvc" not in str(path)]
    assert checkout / "data/new/a" in own
    assert [str(path) for path in own if path.stat().st_mode & 0o077] == []
