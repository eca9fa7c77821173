"""Numbers a stage leaves behind: `metrics.json` at its end, `curves.jsonl` while it runs."""

import json
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.stage.errors import STAGE_LOG, DataError
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
            f"read {STAGE_LOG} for the step at which the number was lost",
        )
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `metrics.json`."""
    content: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return content


def leaves(
    nested: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each value in nested mappings with its keys; an empty mapping is a value."""
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def flatten(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested metrics as one level, keys joined by dots; lists are left out."""
    kept = ((path, value) for path, value in leaves(metrics) if not isinstance(value, list))
    return {
        ".".join(map(str, path)): value for path, value in kept if not isinstance(value, Mapping)
    }


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


class Curves:
    """Appends points to `curves.jsonl`: timestamp_ms, step, name, value, unit.

    A stage that trains several models gives each a `series`, which its points' names begin with,
    and the `share` of the stage that it is: from where to where.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        series: str = "",
        share: tuple[float, float] = (0.0, 1.0),
        resume_step: int | None = None,
    ) -> None:
        """Start a series afresh, or keep its points up to and with `resume_step`."""
        scratch.mkdir(parents=True, exist_ok=True)
        self._path = scratch / CURVES_FILE
        self._series = series
        self._share = share
        points = _points(self._path)
        kept = "".join(f"{row}\n" for row, point in points if self._stays(point, resume_step))
        write_atomically(self._path, kept)

    def _stays(self, point: Mapping[str, Any], resume_step: int | None) -> bool:
        if self._series and not point["name"].startswith(f"{self._series}/"):
            return True
        if not self._series and resume_step is not None and "/" in point["name"]:
            return True  # of a training that came after this one
        if resume_step is None or point["name"] == PROGRESS:
            return False
        return bool(point["step"] <= resume_step)

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
        self._write(step, f"{self._series}/{name}" if self._series else name, value, unit)

    def progress(self, done: int, total: int) -> None:
        """Say how far the series, and with it the stage, is: `done` of `total` equal parts."""
        begin, end = self._share
        whole = begin + (end - begin) * done / max(total, 1)
        self._write(round(whole * 1000), PROGRESS, whole, "share")

    def _write(self, step: int, name: str, value: float, unit: str) -> None:
        point = {
            "timestamp_ms": time.time_ns() // 1_000_000,
            "step": step,
            "name": name,
            "value": value,
            "unit": unit,
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(point) + "\n")


def keep_series(scratch: Path, names: Collection[str]) -> None:
    """Drop what earlier runs of a stage left: their progress, and all series but these."""
    path = scratch / CURVES_FILE
    if not path.exists():
        return
    kept = [row for row, point in _points(path) if point["name"].partition("/")[0] in names]
    write_atomically(path, "".join(f"{row}\n" for row in kept))


def read_curve(scratch: Path, name: str, *, series: str = "") -> list[tuple[int, float]]:
    """Return the points of one curve of a stage, (step, value), as they came; none where it has
    none.
    """
    name = f"{series}/{name}" if series else name
    points = [point for _, point in _points(scratch / CURVES_FILE)]
    return [(point["step"], point["value"]) for point in points if point["name"] == name]


class CurveFollower:
    """Reads a stage's curves while they grow: each call returns the points that were added.

    A stage that resumes writes a file of its own, which begins with points that were kept. So
    points that lay there at the start, `skip_present`, are told apart by their lines.
    """

    def __init__(self, scratch: Path, *, skip_present: bool = False) -> None:
        self._path = scratch / CURVES_FILE
        there = skip_present and self._path.exists()
        self._skipped = set(self._path.read_bytes().splitlines()) if there else set()
        self._offset = 0
        self._inode = 0

    def new_points(self) -> list[dict[str, Any]]:
        """Return the points since the last call; a line that has no end yet is left for later."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            inode = os.fstat(stream.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            stream.seek(self._offset)
            block = stream.read()
        whole = block[: block.rfind(b"\n") + 1]
        self._offset += len(whole)
        new = (_point(line) for line in whole.splitlines() if line not in self._skipped)
        return [point for point in new if point is not None]


def _point(line: str | bytes) -> dict[str, Any] | None:
    """Return the point in a line, None where the disk has changed it."""
    try:
        point: dict[str, Any] = json.loads(line)
        is_whole = isinstance(point["name"], str) and isinstance(point["step"], int)
        return point if is_whole and isinstance(point["value"], int | float) else None
    except (ValueError, LookupError, TypeError):
        return None


def _points(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each line of a file with its point; none where there is no file.

    A kill may have torn the last one, which counts only where it has its end.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [(line, point) for line in lines if (point := _point(line)) is not None]
