"""The table of systems x modes in Markdown: `python -m tasks.evaluation.table --report FOLDER`."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.evaluation.grids import NOTHING, modes_of, shown_metric, shown_mode
from tasks.stage.errors import DataError, NightloomError
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.task_types.table import evaluated_task

_RETRIEVAL = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")


def score_table(metrics: Mapping[str, Any]) -> str:
    """Return two scores of each system in each mode: token F1 (exact match), of labels accuracy
    (macro F1), of summaries ROUGE-L (supported terms), of turns
    that may call tools turn score (call match).
    """
    systems = metrics["systems"]
    modes = modes_of(systems)
    names = evaluated_task(metrics).shown
    first, second = map(shown_metric, names)
    lines = [
        f"| {first} ({second}) | " + " | ".join(map(shown_mode, modes)) + " |",
        "|---|" + "---:|" * len(modes),
    ]
    for system, found in systems.items():
        cells = [_score(found[mode], names) if mode in found else "" for mode in modes]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _score(found: Mapping[str, float | None], names: tuple[str, str]) -> str:
    first, second = (NOTHING if found[name] is None else f"{found[name]:.3f}" for name in names)
    return f"{first} ({second})"


def retrieval_line(metrics: Mapping[str, Any]) -> str:
    """Return what retrieval reached, or why it was not measured."""
    found = metrics["retrieval"]
    if found["mrr"] is None:
        return f"Retrieval was not measured: {found['mrr_reason']}."
    numbers = ", ".join(f"{name.replace('_', ' ')} {found[name]:.3f}" for name in _RETRIEVAL)
    return f"Retrieval over {found['records']} questions: {numbers}."


def machine_line(metrics: Mapping[str, Any]) -> str:
    """Return which records were scored, and on what."""
    machine = metrics["machine"]
    return (
        f"{metrics['records']} held-out records; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['device']}, Python {machine['python']}."
    )


def full_table(metrics: Mapping[str, Any]) -> str:
    """Return the table with the lines that explain it."""
    return "\n\n".join([score_table(metrics), retrieval_line(metrics), machine_line(metrics)])


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the table on stdout, 1 where there is no report."""
    parser = argparse.ArgumentParser(prog="python -m tasks.evaluation.table", description=__doc__)
    parser.add_argument("--report", type=Path, required=True, help="evaluation's report folder")
    options = parser.parse_args(arguments)
    try:
        if not (options.report / METRICS_FILE).exists():
            raise DataError(
                f"{options.report} holds no {METRICS_FILE}; expected evaluation's report",
                "run `nightloom run` first",
            )
        print(full_table(read_metrics(options.report)))
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
