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
from tests.benchmarks._memory import growth

suites = read_suites(Path("params/validation"))
runners = {name: SuiteRunner(suite) for name, suite in suites.items()}

def judge(root):
    with (root / "quarantine.jsonl").open("wb") as stream:
        acceptance = Acceptance(intake_folders(root / "raw"), 500, root, stream, Profiler(1000))
        _, known = acceptance.documents(runners["documents"])
        verdict = acceptance.records(runners["records"], known)
        print(verdict.current, verdict.accepted, end=" ")

for folder in sys.argv[1:]:
    print(round(growth(lambda: judge(Path(folder))), 1))
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


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    # 6,000 more rows are 12 MB of text; a batch of 500 is 1 MB.
    counts = (500, 2_000, 8_000)  # the first is the warm-up
    for count in counts:
        _intake(tmp_path / str(count) / "raw/intakes/1", count)
    folders = [str(tmp_path / str(count)) for count in counts]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *folders], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [line.split() for line in done.stdout.splitlines()]
    assert [(int(line[0]), int(line[1])) for line in found] == [(n, n - n // 100) for n in counts]
    few, many = (float(line[2]) for line in found[1:])
    assert many - few < 3
