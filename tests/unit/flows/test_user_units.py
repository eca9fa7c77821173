"""`nightloom install --user`: units that systemd reads, written and enabled, of this checkout."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.user_units import enabled, user_units, write_units
from tasks.stage.errors import ConfigError

UNITS = ["nightloom-watch.service", "nightloom-watch.timer", "nightloom.service"]
SYSTEMCTL = '#!/bin/sh\necho "$@" >> "{asked}"\nexit {code}\n'


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout at a path that systemd and shells read in their own ways."""
    root = tmp_path / "my 100% night's loom"
    shutil.copytree("deploy", root / "deploy")
    shutil.copytree("params", root / "params")
    for name in ("prefect.yaml", "dvc.yaml"):
        (root / name).touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return root


def systemd(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    """Put a systemctl first that writes down what it is asked; return where."""
    program, asked = folder / "bin" / "systemctl", folder / "asked"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL.format(asked=asked, code=code))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return asked


def call(checkout: Path, *words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["install", *words, "--root", str(checkout)])
    return found.exit_code, found.stdout + found.stderr


@pytest.mark.slow
def test_the_units_are_written_enabled_and_shown(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = systemd(tmp_path, monkeypatch)
    code, said = call(checkout, "--user", "--preset", "tiny")
    assert code == 0, said
    folder = tmp_path / "home" / ".config" / "systemd" / "user"
    assert sorted(path.name for path in folder.iterdir()) == UNITS
    assert asked.read_text().splitlines() == [
        "--user show-environment",
        "--user daemon-reload",
        "--user enable --now nightloom-watch.timer nightloom.service",
    ]
    for text in ("journalctl --user --unit nightloom", "enable-linger", "disable --now"):
        assert text in said
    assert call(checkout, "--user")[0] == 0  # again, with other options
    assert "--preset" not in (folder / "nightloom.service").read_text()


@pytest.mark.slow
def test_where_no_systemd_runs_nothing_is_written(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd(tmp_path, monkeypatch, code=1)
    code, said = call(checkout, "--user")
    assert code == 1
    assert "systemd does not run for this user" in said
    assert "--dry-run" in said
    assert not (tmp_path / "home").exists()


def test_dry_run_prints_them_and_writes_nothing(checkout: Path, tmp_path: Path) -> None:
    code, said = call(checkout, "--user", "--dry-run", "--cron", "0 3 * * *")
    assert code == 0
    assert [line for line in said.splitlines() if line.startswith("# /")] == [
        f"# {tmp_path}/home/.config/systemd/user/{name}" for name in UNITS
    ]
    assert ' up --cron "0 3 * * *" --timezone Etc/UTC' in said
    assert not (tmp_path / "home").exists()


def test_a_preset_that_is_not_there_is_refused_before_it_is_written(checkout: Path) -> None:
    assert call(checkout, "--user", "--dry-run", "--preset", "huge")[0] == 1


def test_no_unit_of_another_checkout_is_written_over(checkout: Path, tmp_path: Path) -> None:
    write_units(user_units(checkout, [], "nightloom", tmp_path))
    other = checkout.with_name("other")
    shutil.copytree(checkout, other)
    with pytest.raises(ConfigError, match="--name"):
        write_units(user_units(other, [], "nightloom", tmp_path))
    units = user_units(other, [], "second", tmp_path)
    write_units(units)
    assert enabled(units) == ["second-watch.timer", "second.service"]


def test_no_place_is_left_open(checkout: Path, tmp_path: Path) -> None:
    for unit in user_units(checkout, [], "nightloom", tmp_path):
        lines = [line for line in unit.text.splitlines() if not line.startswith("#")]
        assert "@" not in "".join(lines)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_reads_all_units(checkout: Path, tmp_path: Path) -> None:
    units = user_units(checkout, ["--cron", "0 3 * * *"], "nightloom", tmp_path)
    write_units(units)
    own = tmp_path / "system"
    own.mkdir()
    for path in Path("deploy/systemd/system").iterdir():
        # The program and the user of a machine that has it installed.
        text = path.read_text().replace("/srv/nightloom/.venv/bin/nightloom", "/bin/true")
        (own / path.name).write_text(text.replace("=nightloom\n", "=root\n"))
    for kind, files in (
        ("--user", [unit.path for unit in units]),
        ("--system", sorted(own.iterdir())),
    ):
        done = subprocess.run(
            ["systemd-analyze", kind, "--man=no", "verify", *map(str, files)],
            capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": "/"},
        )  # fmt: skip
        ours = [
            line
            for line in done.stderr.splitlines()
            if any(path.name in line for path in files) and "Failed to connect" not in line
        ]
        assert ours == [], done.stderr
