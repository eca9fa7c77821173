"""Seconds and memory of taking in many records, as JSONL, CSV or Parquet, and of an idle night.

`python -m tests.benchmarks.ingestion [--quick] [--rows N] [--bytes N] [--format FORMAT]`. It has no
peer: the figures say how many MB the process grew above its start, its imports done.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tasks.ingestion.intakes import take_in
from tests.benchmarks._memory import most_megabytes
from tests.builders.ingestion import ingestion_params

ROWS, QUICK_ROWS = 1_000_000, 20_000
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rows(count: int, size: int) -> Iterator[dict[str, str]]:
    """Records of about `size` bytes, all different."""
    for number in range(count):
        answer = (f"The answer to number {number} is {number * 7919}. " * (size // 40 + 1))[:size]
        yield {"id": f"r{number}", "question": f"What is number {number}?", "answer": answer}


def write(path: Path, count: int, size: int) -> None:
    """Write records into a JSONL, CSV or Parquet file, one batch at a time."""
    if path.suffix == ".parquet":
        names = ("id", "question", "answer")
        schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
        with parquet.ParquetWriter(path, schema) as writer:
            source = rows(count, size)
            while batch := list(islice(source, 1000)):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, ("id", "question", "answer"))
        if path.suffix == ".csv":
            table.writeheader()
        for row in rows(count, size):
            if path.suffix == ".csv":
                table.writerow(row)
            else:
                stream.write(json.dumps(row) + "\n")


def measure(path: Path, raw: Path) -> dict[str, float]:
    """Seconds and growth in MB of a first night and of an idle one."""
    files = {"root": str(path.parent), "records": [path.name], "documents": []}
    params = ingestion_params({"name": "files", "kind": "files", "files": files})
    start = most_megabytes()
    begun = time.perf_counter()
    intake = take_in(params, raw, _NOW, accepted=raw).intake
    first = time.perf_counter() - begun
    grown = most_megabytes() - start
    assert take_in(params, raw, _NOW, accepted=raw).intake is None
    assert intake is not None
    return {
        "rows": intake.records,
        "first_seconds": round(first, 2),
        "first_mb_above_start": round(grown, 1),
        "idle_seconds": round(time.perf_counter() - begun - first, 2),
        "both_mb_above_start": round(most_megabytes() - start, 1),
    }


def main() -> None:
    """Print the figures as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--bytes", type=int, default=250)
    parser.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl")
    chosen = parser.parse_args()
    count = chosen.rows or (QUICK_ROWS if chosen.quick else ROWS)
    with tempfile.TemporaryDirectory(prefix="ingestion-") as folder:
        path = Path(folder) / f"rows.{chosen.format}"
        write(path, count, chosen.bytes)
        few = path.with_stem("few")
        write(few, 100, chosen.bytes)
        measure(few, Path(folder) / "warm-up")
        figures = measure(path, Path(folder) / "raw")
    result = {"benchmark": "ingestion", "ratios": {}, "spread": {}, "figures": figures}
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
