"""The report's pictures: the same numbers give the same bytes."""

import io
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from tasks.evaluation.grids import modes_of, shown_metric, shown_mode, shown_slice, slice_sizes

# The largest slices are drawn; the report's table has all.
_SLICES = 12
_BAR = 0.8

# The two kinds of records where abstaining is looked at: what is best, and a colour for it.
_KINDS = {
    "unanswerable": ("should abstain (1 is best)", "C0"),
    "answerable": ("should answer (0 is best)", "C1"),
}

# What a slice is called in a picture, given its name and its place among all slices.
Naming = Callable[[str, int], str]


def plain(name: str, place: int) -> str:
    """Return a slice's own name."""
    return shown_slice(name)


def drawable(name: str, place: int) -> str:
    """Return a slice's own name where matplotlib's one font has every letter of it, else `#PLACE`.

    No font of Korean or Chinese comes with matplotlib, and what the machine has must not decide.
    """
    glyphs = _glyphs()
    text = shown_slice(name)
    return text if all(ord(letter) in glyphs for letter in text) else f"#{place + 1}"


@cache
def _glyphs() -> frozenset[int]:
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return frozenset(FT2Font(str(font)).get_charmap())


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    stream = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(stream, dpi=120, format="png", metadata={"Software": None})
    return stream.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG whose text is text, without a background."""
    stream = io.StringIO()
    # Text as text: the reader's own fonts draw it, Korean too. Ids are hashes of what they name.
    settings = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nightloom"})
    with settings, warnings.catch_warnings():
        # So what our font lacks is no loss.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue().encode()


def draw(metrics: Mapping[str, Any], naming: Naming) -> dict[str, Figure]:
    """Return pictures by name: scores, slices, tradeoff (memory against quality), abstention.

    The last is left out where no answer can abstain.
    """
    found = {
        "scores": _scores(metrics),
        "slices": _slices(metrics, naming),
        "tradeoff": _tradeoff(metrics),
    }
    return found | ({"abstention": _abstention(metrics)} if metrics["abstention_shares"] else {})


def _figure(width: float = 7, height: float = 4) -> Figure:
    # The object interface needs no display and leaves pyplot's global state alone.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _scores(metrics: Mapping[str, Any]) -> Figure:
    """Return each system's score by mode, with its interval."""
    figure = _figure()
    axes = figure.add_subplot()
    primary, found = metrics["primary"], metrics["intervals"]
    modes = modes_of(found)
    for place, (system, row) in enumerate(found.items()):
        drawn = [(at, row[mode]) for at, mode in enumerate(modes) if mode in row]
        _bars(axes, drawn, place, len(found), label=system, color=f"C{place}")
    axes.set_xticks(range(len(modes)), list(map(shown_mode, modes)))
    _finish(axes, f"{shown_metric(primary['metric'])} ({primary['confidence']:.0%} intervals)")
    _legend(figure, axes)
    return figure


def _slices(metrics: Mapping[str, Any], naming: Naming) -> Figure:
    """Return each system's score by slice in the primary mode; one record alone has no interval."""
    primary, found, sizes = metrics["primary"], metrics["slices"], slice_sizes(metrics)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:_SLICES]
    names = [name for name in sizes if name in largest]
    places = list(sizes)
    figure = _figure(height=1.5 + 0.22 * (len(names) + 1) * max(2, len(found)) / 2)
    axes = figure.add_subplot()
    for place, (system, rows) in enumerate(found.items()):
        drawn = [
            (at, rows[name] | {"value": rows[name][primary["metric"]]})
            for at, name in enumerate(names)
            if name in rows
        ]
        _bars(axes, drawn, place, len(found), label=system, color=f"C{place}", lying=True)
    labels = [f"{naming(name, places.index(name))} ({sizes[name]})" for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.invert_yaxis()
    left_out = len(sizes) - len(names)
    more = f"; the {len(names)} largest, {left_out} more in the table" if left_out else ""
    axes.set(
        xlim=(0, 1),
        xlabel=f"{shown_metric(primary['metric'])}, {shown_mode(primary['mode'])}{more}",
    )
    axes.spines[["top", "right"]].set_visible(False)
    _legend(figure, axes)
    return figure


def _tradeoff(metrics: Mapping[str, Any]) -> Figure:
    """Return each system's score, with its interval, over the memory that its weights take."""
    figure = _figure()
    axes = figure.add_subplot()
    mode = metrics["primary"]["mode"]
    for place, (system, size) in enumerate(metrics["sizes"].items()):
        score = metrics["intervals"][system][mode]
        label = f"{system}: {size['parameters'] / 1e6:.0f} M parameters, {size['megabytes']:.0f} MB"
        axes.errorbar(
            size["megabytes"],
            score["value"],
            yerr=_error(score),
            fmt="o",
            capsize=3,
            color=f"C{place}",
            label=label,
        )
    axes.set(xlabel="weights in memory, MB")
    axes.set_xlim(left=0)
    _finish(axes, f"{shown_metric(metrics['primary']['metric'])}, {shown_mode(mode)}")
    _legend(figure, axes, columns=2)
    return figure


def _abstention(metrics: Mapping[str, Any]) -> Figure:
    """Return the share of abstentions among records that should and should not abstain, by mode."""
    found = metrics["abstention_shares"]
    modes = modes_of(found)
    figure = _figure(width=max(7, 1.1 + 2.4 * len(modes)))
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axes, mode in zip(panels, modes, strict=True):
        systems = [system for system in found if mode in found[system]]
        for place, (kind, (label, color)) in enumerate(_KINDS.items()):
            drawn = [
                (at, found[system][mode][kind])
                for at, system in enumerate(systems)
                if kind in found[system][mode]
            ]
            _bars(axes, drawn, place, len(_KINDS), label=label, color=color)
        axes.set_xticks(range(len(systems)), systems, rotation=45, ha="right")
        axes.set_xlim(-0.6, len(systems) - 0.4)
        axes.set_title(shown_mode(mode), fontsize="medium")
        _finish(axes, "")
    panels[0].set_ylabel("share of answers that abstain")
    # A panel without unanswerable records has one kind alone: the legend is that of all panels.
    named: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()), list(named), frameon=False, ncols=2, loc="outside lower center"
    )
    return figure


def _bars(
    axes: Axes,
    drawn: list[tuple[int, Mapping[str, float]]],
    place: int,
    count: int,
    *,
    label: str,
    color: str,
    lying: bool = False,
) -> None:
    """Draw one of `count` series of bars side by side, each with its interval if it has one."""
    width = _BAR / count
    middles = [at + (place - (count - 1) / 2) * width for at, _ in drawn]
    values = [row["value"] for _, row in drawn]
    if not drawn:
        return
    bars = axes.barh if lying else axes.bar
    bars(middles, values, width * 0.92, label=label, color=color)
    for middle, (_, row) in zip(middles, drawn, strict=True):
        if row.get("low") is not None:
            axes.errorbar(
                row["value"] if lying else middle,
                middle if lying else row["value"],
                xerr=_error(row) if lying else None,
                yerr=None if lying else _error(row),
                fmt="none",
                ecolor="#404040",
                capsize=2,
                elinewidth=1,
            )


def _error(row: Mapping[str, float]) -> list[list[float]]:
    """Return below and above, as matplotlib wants them; rounding must not make one negative."""
    return [[max(0.0, row["value"] - row["low"])], [max(0.0, row["high"] - row["value"])]]


def _finish(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 1)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Draw the legend below the picture, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    shown = min(columns, max(1, len(labels)))
    figure.legend(handles, labels, frameon=False, ncols=shown, loc="outside lower center")
