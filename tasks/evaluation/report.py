"""The evaluation for people: `report.md` for a terminal, `report.html` to read, and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.evaluation.grids import comparison_grid, quoted, size_grid, slice_grid, slice_sizes
from tasks.evaluation.page import PAGE_FILE, Shown, render_page
from tasks.evaluation.plots import draw, drawable, plain, png, svg
from tasks.evaluation.table import machine_line, retrieval_line, score_table
from tasks.evaluation.words import answers, headline
from tasks.records.predictions import Prediction


def write_report(
    folder: Path,
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    passages: Mapping[str, str],
) -> None:
    """Write `report.md`, `report.html` and a PNG a picture; `passages` are the shown texts by id.

    Equal evidence gives equal bytes.
    """
    for name, figure in draw(metrics, drawable).items():
        (folder / f"{name}.png").write_bytes(png(figure))
    pictures = {name: svg(figure) for name, figure in draw(metrics, plain).items()}
    shown = Shown(metrics, predictions, passages, pictures)
    (folder / PAGE_FILE).write_text(render_page(shown), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(metrics), encoding="utf-8")


def _markdown(metrics: Mapping[str, Any]) -> str:
    """What MLflow's artifact viewer and a terminal show: the words first, then the numbers."""
    parts = ["# Evaluation", headline(metrics), score_table(metrics)]
    parts += [retrieval_line(metrics), machine_line(metrics)]
    parts += [f"**{answer.question}** {answer.text}" for answer in answers(metrics)]
    for grid in (comparison_grid(metrics), size_grid(metrics), slice_grid(metrics)):
        parts += [f"## {grid.title}", grid.markdown()]
    parts += _numbered(metrics)
    names = ("scores", "slices", "tradeoff", "abstention")
    parts.append(" ".join(f"![{name}]({name}.png)" for name in names))
    parts.append(f"Every answer side by side, worst first: [{PAGE_FILE}]({PAGE_FILE}).")
    return "\n\n".join(parts) + "\n"


def _numbered(metrics: Mapping[str, Any]) -> list[str]:
    """Which slices `slices.png` gives a number, because its font can't write their names."""
    names = list(slice_sizes(metrics))
    marks = [(drawable(name, place), plain(name, place)) for place, name in enumerate(names)]
    told = ", ".join(f"{mark} is {quoted(name)}" for mark, name in marks if mark != name)
    return [f"In `slices.png` {told}."] if told else []
