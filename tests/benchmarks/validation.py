"""Validation of 1,000,000 rows: ours in batches, and one plain GX checkpoint over one frame.

Both read the same JSONL with the same strict reader into the same features, have the same rules
and end with the rules that each row breaks. The checkpoint is run as GX's documentation does to
learn which rows are bad (`gx_checkpoint`, rows named by a column), and in its fastest form that
still says it (`gx_checkpoint_tuned`, rows named by the frame's index). Every run is a process of
its own (with `--quick` a fork of one that has imported all), whose memory is counted above what it
held when the imports were done, and whose seconds are CPU seconds of its one thread, so that what
else runs on the machine counts for neither side.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.validation.checks import check_rows, mark_missing
from tasks.validation.expectations import SuiteRunner, SuiteTotals, great_expectations
from tasks.validation.features import RECORD_FEATURES, TEXT_FEATURES, read_record
from tasks.validation.raw_rows import find_current_rows, id_digests
from tasks.validation.suites import Suite, read_suites
from tests.benchmarks._apart import Apart
from tests.benchmarks._measurement import print_result
from tests.benchmarks._memory import most_megabytes

BATCH_ROWS = 50_000
SIDES = ("ours", "gx_checkpoint", "gx_checkpoint_tuned")
DOCUMENTS = 1000
Breaches = Iterator[tuple[int, list[str]]]


def write_rows(path: Path, count: int) -> None:
    """Write records of which about one in fifty breaks a rule, each kind of breach in turn."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "안녕", "세계", "dog"]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            row: dict[str, Any] = {
                "id": f"row-{number}",
                "question": " ".join(words[(number * k) % len(words)] for k in range(1, 13)) + "?",
                "answer": " ".join(words[(number + k) % len(words)] for k in range(20)) + ".",
                "documents": [f"d{number % DOCUMENTS}"],
                "slice": f"s{number % 7}",
                "source": "benchmark",
                "license": "CC0",
            }
            if number % 50 == 0:
                _spoil(row, number // 50 % 8)
            text = json.dumps(row, ensure_ascii=False)
            stream.write(text.replace('"benchmark"', "NaN") if number % 4000 == 7 else text)
            stream.write("\n")


def _spoil(row: dict[str, Any], kind: int) -> None:
    changes: list[dict[str, Any]] = [
        {"answer": ""},
        {"answer": row["question"]},
        {"documents": ["nowhere"]},
        {"id": "row-1"},
        {"question": "a\ufffdb"},
        {"answer": "x" * 5000},
        {"answer": 3},
        {"id": None},
    ]
    row.update(changes[kind])


def check_in_batches(path: Path, suite: Suite) -> Breaches:
    """Which rows break which rules, as the validation stage finds it."""
    known = _known()
    totals = SuiteTotals(suite)
    batches = check_rows(
        SuiteRunner(suite),
        map(read_record, find_current_rows([path.parent], path.name, {}).rows()),
        RECORD_FEATURES,
        batch_rows=BATCH_ROWS,
        prepare=lambda batch: mark_missing(batch, known),
    )
    for batch in batches:
        totals.add(batch.results)
        for row, breaches in batch.quarantined:
            yield row.number, sorted(breach.rule.name for breach in breaches)
        del batch  # as the stage does


def check_at_once(path: Path, suite: Suite, *, tuned: bool) -> Breaches:
    """The same by one checkpoint over one frame of all rows."""
    frame = _frame(path)
    gx = great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = gx.data_context.types.base.ProgressBarsConfig(globally=False)
    from great_expectations.expectations import registry

    expectations = [
        registry.get_expectation_impl(rule.type)(**rule.kwargs, meta={"rule": rule.name})
        for rule in suite.rules
    ]
    built = context.suites.add(gx.ExpectationSuite(name="all", expectations=expectations))
    asset = context.data_sources.add_pandas("all").add_dataframe_asset("all")
    batches = asset.add_batch_definition_whole_dataframe("all")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="all", data=batches, suite=built)
    )
    form: dict[str, Any] = {"result_format": "COMPLETE"}
    if not tuned:
        form["unexpected_index_column_names"] = ["number"]
    checkpoint = gx.Checkpoint(name="all", validation_definitions=[definition], result_format=form)
    result = checkpoint.run(batch_parameters={"dataframe": frame})
    [run] = result.run_results.values()
    found: dict[int, list[str]] = {}
    for item in run.results:
        for place in item.result.get("unexpected_index_list") or []:
            number = frame["number"].iat[place] if tuned else place["number"]
            found.setdefault(int(number), []).append(item.expectation_config.meta["rule"])
    yield from ((number, sorted(rules)) for number, rules in sorted(found.items()))


def _frame(path: Path) -> pd.DataFrame:
    """All rows as one frame of features."""
    rows = map(read_record, find_current_rows([path.parent], path.name, {}).rows())
    known = _known()
    columns: dict[str, list[Any]] = {name: [] for name in (*RECORD_FEATURES, "number")}
    for row in rows:
        mark_missing([row], known) if row.names else row.features.update(missing_documents=0)
        for name in RECORD_FEATURES:
            columns[name].append(row.features.get(name))
        columns["number"].append(row.number)
    return pd.DataFrame(
        {
            name: pd.Series(columns.pop(name), dtype="object" if name in TEXT_FEATURES else None)
            for name in list(columns)
        }
    )


def _known() -> Any:
    digests = id_digests(f"d{number}" for number in range(DOCUMENTS))
    digests = digests.copy()
    digests.sort()
    return digests


def run_side(side: str, path: Path) -> dict[str, Any]:
    """One side's seconds, its memory and the digest of its verdicts."""
    great_expectations()
    suite = read_suites(Path("params/validation"))["records"]
    begun = most_megabytes()
    started, cpu = time.perf_counter(), time.process_time()
    digest, bad = hashlib.sha256(), 0
    verdicts = (
        check_in_batches(path, suite)
        if side == "ours"
        else check_at_once(path, suite, tuned=side.endswith("tuned"))
    )
    for number, rules in verdicts:
        digest.update(json.dumps([number, rules]).encode())
        bad += 1
    seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - started}
    return {
        "megabytes": most_megabytes() - begun,
        "digest": digest.hexdigest(),
        "bad": bad,
    } | seconds


def main() -> int:
    """Measure and print; 0 when every side says the same of every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50,000 rows, 1 repeat")
    parser.add_argument("--rows", type=int, help="rows, instead of 1,000,000")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    options = parser.parse_args()
    count = options.rows or (50_000 if options.quick else 1_000_000)
    repeats = options.repeats or (1 if options.quick else 5)
    os.environ |= {"OMP_NUM_THREADS": "1", "GX_ANALYTICS_ENABLED": "false"}
    if options.quick:
        great_expectations()
    apart = Apart(forked=options.quick)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        write_rows(path, count)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(repeats):
            for side in SIDES:
                found = apart(run_side, side, path)
                runs[side].append(found)
                print(side, {name: found[name] for name in found if name != "digest"}, flush=True)
    digests = {run["digest"] for found in runs.values() for run in found}
    memory = {side: max(run["megabytes"] for run in found) for side, found in runs.items()}
    figures = {
        "rows": count,
        "bad_rows": runs["ours"][0]["bad"],
        "same_verdict_for_every_row": len(digests) == 1,
        "megabytes_above_start": {side: round(value) for side, value in memory.items()},
        "memory_ratios": {
            side: round(value / memory["ours"], 2)
            for side, value in memory.items()
            if side != "ours"
        },
        "wall_seconds": {
            side: [round(x["wall"], 1) for x in found] for side, found in runs.items()
        },
    }
    seconds = {side: [run["cpu"] for run in found] for side, found in runs.items()}
    print_result("validation", seconds, figures)
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
