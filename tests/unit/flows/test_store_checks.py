"""What the doctor says of what is kept, and that it closes what is open and mends no more."""

import json
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from os import utime
from pathlib import Path

import pytest

from flows.backup import LAST_BACKUP, BackupNote
from flows.cli import doctor, store_checks
from flows.run_state import NightState, StageEntry, night_file, write_night
from flows.servers import Services
from tasks.stage.outputs import file_sha256


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("prefect.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    shutil.copytree("params", tmp_path / "params")
    (tmp_path / ".nightloom").mkdir(mode=0o700)
    return tmp_path


def test_servers_that_give_no_answer_are_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_checks.services(checkout).found == "none is up"
    dead = Services(pid=1, started=0.0, prefect="http://127.0.0.1:9", mlflow="http://127.0.0.1:9")
    monkeypatch.setattr(Services, "read", lambda _: dead)
    found = store_checks.services(checkout)
    assert "Prefect and MLflow of process 1 gives no answer" in found.found
    assert "nightloom down" in found.remedy


def test_a_night_that_nobody_runs_is_told(checkout: Path) -> None:
    assert not store_checks.abandoned(checkout).remedy
    night = NightState(night="2026-11-29T023000Z", workspace="x", pid=2**22 + 1)
    write_night(night_file(checkout, night.night), night)
    found = store_checks.abandoned(checkout)
    assert "2026-11-29T023000Z has no verdict" in found.found
    assert "nightloom run" in found.remedy


def test_a_database_that_is_damaged_or_held_is_told(checkout: Path) -> None:
    path = checkout / ".nightloom" / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (a)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 900,)] * 99)
        connection.commit()
    assert store_checks.databases(checkout).found == "1 are whole and can be written"
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)
    assert "damaged" in store_checks.databases(checkout).found
    path.write_text("no database" * 99)
    assert "not a database" in store_checks.databases(checkout).found


def test_a_weight_that_changed_is_told(checkout: Path) -> None:
    folder = checkout / ".nightloom" / "models" / "d1"
    folder.mkdir(parents=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    manifest = {"name": "m", "digest": "d1", "files": {weights.name: file_sha256(weights)}}
    (checkout / "data" / "models").mkdir(parents=True)
    (checkout / "data" / "models" / "base.json").write_text(json.dumps(manifest))
    (checkout / "data" / "models" / "reranker.json").write_text("null\n")
    assert store_checks.model_store(checkout).found.startswith("1 models")
    weights.write_bytes(b"weighty")
    assert "m: model.safetensors" in store_checks.model_store(checkout).found
    weights.unlink()
    assert store_checks.model_store(checkout).remedy


def test_a_backup_that_is_old_or_gone_is_told(checkout: Path, tmp_path: Path) -> None:
    assert "none was made here" in store_checks.backups(checkout).found
    for days, place, bad in ((1, tmp_path, ""), (31, tmp_path, "at most 30"), (1, "/no", "stays")):
        note = BackupNote(
            time=datetime.now(UTC) - timedelta(days=days), place=str(place), release="0", files=1,
            left=[],
        )  # fmt: skip
        (checkout / ".nightloom" / LAST_BACKUP).write_text(note.model_dump_json())
        found = store_checks.backups(checkout)
        assert bool(found.remedy) == bool(bad)
        assert bad in found.remedy


def test_a_clock_behind_what_nights_wrote_is_told(checkout: Path) -> None:
    assert "zone" in store_checks.clock(checkout).found
    night = checkout / ".nightloom" / "nights" / "2026-11-29T023000Z.json"
    night.parent.mkdir()
    night.write_text("{}")
    assert not store_checks.clock(checkout).remedy
    utime(night, (time.time() + 7200,) * 2)
    assert "2.0 h later" in store_checks.clock(checkout).found


def test_a_check_that_fails_says_so_and_the_others_go_on(checkout: Path) -> None:
    (checkout / "params" / "paths.yaml").write_text("- no mapping\n")
    found = dict(store_checks.look_at_stores(checkout))
    assert set(found) == set(store_checks.LOOKS)


def test_disk_and_memory_are_compared_with_what_the_last_night_took(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "taken", lambda _: [])
    monkeypatch.setattr(doctor, "stage_names", lambda _: ["finetuning"])
    assert "8.0 needed by the default model" in doctor._disk(checkout).found
    assert "6.0 needed by the default model" in doctor._memory(checkout).found
    night = NightState(night="2026-11-29T023000Z", workspace="checkout", pid=1, verdict="promoted")
    for memory_mb, disk_mb, is_enough in ((1500, 200, True), (10**9, 10**9, False)):
        stage = StageEntry(
            name="finetuning", state="executed", memory_mb=memory_mb, disk_mb=disk_mb
        )
        write_night(night_file(checkout, night.night), night.model_copy(update={"stages": [stage]}))
        for look, took in ((doctor._memory, memory_mb), (doctor._disk, disk_mb)):
            assert f"{took / 1000:.1f} needed by the last night" in look(checkout).found
            assert look(checkout).passed == is_enough
