"""Numbers a stage leaves behind: `metrics.json` at its end, `curves.jsonl` while it runs."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.stage.errors import DataError
from tasks.stage.outputs import write_atomically

METRICS_FILE = "metrics.json"
CURVES_FILE = "curves.jsonl"
PROGRESS = "progress"


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json` (nested names to numbers, texts or null) into a folder.

    Raises:
        DataError: a number is NaN or infinite; a metric that can't be computed is null, with a
            reason beside it.
    """
    bad = sorted(name for name, value in flatten(metrics).items() if not _finite(value))
    if bad:
        raise DataError(
            f"metrics that are not finite: {', '.join(bad[:5])}",
            "read the stage's log for the step at which the number was lost",
        )
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of a folder's `metrics.json`."""
    content: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return content


def flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level, keys joined by dots; lists are left out."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[f"{prefix}{name}"] = value
    return flat


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class Curves:
    """Appends points to `curves.jsonl`: timestamp_ms, step, name, value, unit."""

    def __init__(self, scratch: Path, *, resume_step: int | None = None) -> None:
        """Start a curve file afresh, or keep its points up to and with `resume_step`."""
        scratch.mkdir(parents=True, exist_ok=True)
        self._path = scratch / CURVES_FILE
        kept = ""
        if resume_step is not None and self._path.exists():
            rows = _whole_lines(self._path)
            kept = "".join(f"{row}\n" for row in rows if json.loads(row)["step"] <= resume_step)
        write_atomically(self._path, kept)

    def append(self, step: int, name: str, value: float, unit: str) -> None:
        """Append one point.

        Raises:
            DataError: the value is not finite.
        """
        if not math.isfinite(value):
            raise DataError(
                f"{name} is {value} at step {step}; expected a finite number",
                "lower the learning rate, or look for broken rows in the data",
            )
        point = {
            "timestamp_ms": time.time_ns() // 1_000_000,
            "step": step,
            "name": name,
            "value": value,
            "unit": unit,
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(point) + "\n")

    def progress(self, done: int, total: int) -> None:
        """Say how far the stage is: `done` of `total` equal parts."""
        self.append(done, PROGRESS, done / max(total, 1), "share")


def read_curve(scratch: Path, name: str) -> list[tuple[int, float]]:
    """The points of one curve of a stage, (step, value), as they came; none where it has none."""
    path = scratch / CURVES_FILE
    if not path.exists():
        return []
    points = [json.loads(line) for line in _whole_lines(path)]
    return [(point["step"], point["value"]) for point in points if point["name"] == name]


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file; the last one, which a kill may have torn, only where it has its end."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]
