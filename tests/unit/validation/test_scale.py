"""Validation of many rows: memory that does not grow with them, and the same verdicts as GX's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.stage.outputs import write_manifest

MEASURED = """
import sys
from pathlib import Path
from tasks.validation.checks import Acceptance
from tasks.validation.expectations import SuiteRunner
from tasks.validation.raw_rows import intake_folders
from tasks.validation.profile import Profiler
from tasks.validation.suites import read_suites
from tests.benchmarks._memory import most_megabytes

root = Path(sys.argv[1])
suites = read_suites(Path("params/validation"))
runners = {name: SuiteRunner(suite) for name, suite in suites.items()}
intakes = intake_folders(root / "raw")
begun = most_megabytes()
with (root / "quarantine.jsonl").open("wb") as stream:
    acceptance = Acceptance(intakes, {}, 2000, root, stream, Profiler(1000))
    _, known = acceptance.documents(runners["documents"])
    verdict = acceptance.records(runners["records"], known)
print(verdict.current, verdict.accepted, round(most_megabytes() - begun))
"""


def _intake(folder: Path, count: int) -> None:
    """Records of 2 kB each, one in a hundred without an answer."""
    folder.mkdir(parents=True)
    text = "A question about something that takes a while to say. " * 36
    with (folder / "records.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(count):
            answer = "" if number % 100 == 0 else f"Answer {number}."
            row = {"id": f"r{number}", "question": f"{number} {text}", "answer": answer}
            stream.write(json.dumps(row) + "\n")
    write_manifest(folder)


def _megabytes(folder: Path, count: int) -> int:
    """What validation takes above its start, its verdict checked."""
    _intake(folder / "raw/intakes/1", count)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    current, accepted, megabytes = map(int, done.stdout.split())
    assert (current, accepted) == (count, count - count // 100)
    return megabytes


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    # 30,000 more rows are 60 MB of text; a batch of 2,000 is 4 MB.
    assert _megabytes(tmp_path / "many", 40_000) - _megabytes(tmp_path / "few", 10_000) < 15
