"""Many nights in a row against running servers: disk, memory and open files, in a table.

`python -m tests.soak [--nights 100] [--every 5] [--keep FOLDER]`: each N-th night has new rows, the
others have nothing new. Exit code 1 where the last quarter takes more than the second one did.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

import psutil
import yaml

from tests.builders.clones import (
    AUTOMATIC,
    MILD,
    as_in_a_terminal,
    command,
    environment,
    nightloom,
    set_params,
)
from tests.fingerprint.clone import Clone

# By how much of what it was a figure may grow from the second quarter to the last one.
_GROWTH = {"memory_mb": 1.15, "open_files": 1.10}
# What a night leaves on disk until it is old: its records in MLflow and Prefect.
_RECORDS_MB = 2.0
_START_SECONDS = 300.0
_ROWS = 12
# So that a soak of a few nights meets its bounds.
_RETENTION = {"nights": 3, "record_days": 1, "log_days": 1, "scratch_days": 1}


@dataclass(frozen=True)
class Measured:
    """One night: how it ended, how long it took, and what stands afterwards."""

    night: int
    rows: int
    verdict: str
    seconds: float
    disk_mb: float
    memory_mb: float
    open_files: int


def new_rows(clone: Path, night: int) -> None:
    """Write a file with rows that no night has had, and that resemble no other row.

    All have one answer, which a model of two layers learns to be sure of.
    """
    folder = clone / "incoming"
    folder.mkdir(exist_ok=True)
    drawn = random.Random(night)
    lines = []
    for row in range(_ROWS):
        words = ["".join(drawn.choices("aeiklmnoprstu", k=drawn.randint(4, 9))) for _ in range(9)]
        question = f"Does {' '.join(words)}?"
        lines.append(json.dumps({"id": f"n{night}-{row}", "question": question, "answer": "yes"}))
    (folder / f"lot-{night:03}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(clone: Path) -> None:
    """Let a clone read `incoming/` beside what it reads, and keep little."""
    files = {"root": ".", "records": ["incoming/*"]}
    source = {"name": "lots", "kind": "files", "files": files, "limit": _ROWS * 1000}
    path = clone / "params" / "ingestion.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["sources"].append(source)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    path = clone / "params" / "retention.yaml"
    kept = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(kept | _RETENTION, sort_keys=False), encoding="utf-8")
    set_params(
        clone,
        *MILD,
        AUTOMATIC,
        "promotion.anchor_nights=3",
        "release.retention.archived=1",
        "release.retention.days=0",
    )


def measure(clone: Path, keeper: int) -> tuple[float, float, int]:
    """Return MB on disk, and MB of memory and open files of the servers and their children."""
    seen = {(found.st_dev, found.st_ino): found.st_blocks * 512
            for path in clone.rglob("*") if (found := path.lstat())}  # fmt: skip
    whole = psutil.Process(keeper)
    memory = files = 0
    for process in (whole, *whole.children(recursive=True)):
        try:
            memory += process.memory_info().rss
            files += process.num_fds()
        except psutil.NoSuchProcess:
            continue
    return sum(seen.values()) / 1e6, memory / 1e6, files


def run_nights(clone: Path, nights: int, every: int, keeper: int) -> list[Measured]:
    """Run nights and print a line for each."""
    found = []
    print(
        f"{'night':>5} {'rows':>5} {'verdict':<12} {'s':>7} {'disk MB':>9} {'MB':>8} {'files':>6}"
    )
    for night in range(nights):
        rows = 0 if night % every else _ROWS
        if rows:
            new_rows(clone, night)
        begun = time.monotonic()
        done = nightloom(clone, "run", "--preset", "tiny", "--json")
        seconds = time.monotonic() - begun
        verdict = json.loads(done.stdout)["verdict"] if done.stdout else done.stderr[-200:]
        one = Measured(night, rows, verdict, seconds, *measure(clone, keeper))
        found.append(one)
        print(
            "{:>5} {:>5} {:<12} {:>7.1f} {:>9.1f} {:>8.0f} {:>6}".format(*astuple(one)), flush=True
        )
    return found


def grown(found: Sequence[Measured]) -> list[str]:
    """Return what the last quarter takes more of than the second one, beyond its bound."""
    quarter = max(1, len(found) // 4)

    def medians(name: str) -> tuple[float, float]:
        parts = (found[quarter : 2 * quarter], found[-quarter:])
        then, now = (median(getattr(one, name) for one in part) for part in parts)
        return then, now

    told = []
    for name, bound in _GROWTH.items():
        then, now = medians(name)
        if now > bound * then:
            told.append(f"{name}: {then:.0f} -> {now:.0f}, at most {bound:g} times")
    then, now = medians("disk_mb")
    if now - then > _RECORDS_MB * len(found) / 2:
        told.append(f"disk_mb: {then:.0f} -> {now:.0f}, at most {_RECORDS_MB:g} more a night")
    return told


def soak(folder: Path, nights: int, every: int) -> list[Measured]:
    """Run nights in a clone in a folder, with its servers up."""
    clone = Clone.make(Path(), folder / "checkout").root
    prepare(clone)
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            command("up", "--prefect-port", "4391", "--mlflow-port", "5391", "--cron", "0 0 1 1 *"),
            cwd=clone, env=environment(), stdout=log, stderr=log, preexec_fn=as_in_a_terminal,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not (clone / ".nightloom" / "services.json").exists():
            if up.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "up.log").read_text())
            time.sleep(1)
        return run_nights(clone, nights, every, up.pid)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def main() -> int:
    """Soak, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=100)
    parser.add_argument("--every", type=int, default=5, help="each N-th night has new rows")
    parser.add_argument("--keep", type=Path, help="where the clone stays")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(given.keep or Path(folder), given.nights, given.every)
    told = grown(found)
    print("\n".join(told) or "disk, memory and open files are flat")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
