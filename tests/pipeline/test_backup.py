"""A checkout is saved, lost and restored elsewhere: it serves, and its next night works."""

import json
import os
import shutil
from pathlib import Path

import pytest

from flows.graph import cache_folder
from tests.builders.clones import nightloom, run
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]


def test_a_restored_clone_serves_and_its_next_night_has_nothing_to_do(
    after_a_night: Path, tmp_path: Path
) -> None:
    saved, clone = tmp_path / "saved", Clone.make(Path(), tmp_path / "elsewhere").root
    done = nightloom(after_a_night, "backup", "--to", str(saved))
    assert done.returncode == 0, done.stderr
    objects = {path.name for path in cache_folder(after_a_night).rglob("*") if path.is_file()}
    after_a_night.rename(after_a_night.with_name("lost"))
    done = nightloom(clone, "restore", str(saved))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in cache_folder(clone).rglob("*") if path.is_file()} == objects
    settings = (clone / ".dvc" / "config.local").read_text(encoding="utf-8")
    assert (str(clone) in settings, str(after_a_night) in settings) == (True, False)
    shutil.rmtree(saved)
    asked = nightloom(clone, "ask", "What is there?", "--json")
    assert asked.returncode == 0, asked.stderr
    assert "answer" in json.loads(asked.stdout)
    code, found = run(clone)
    assert (code, found["verdict"], found["error"]) == (0, "unchanged", None), found
    assert {entry["state"] for entry in found["stages"]} == {"skipped"}
    assert nightloom(clone, "ledger", "verify").returncode == 0
    assert not os.path.lexists(after_a_night)
