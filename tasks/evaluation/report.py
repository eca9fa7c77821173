"""The evaluation in words and in a plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.evaluation.table import machine_line, retrieval_line, score_table
from tasks.records.predictions import MODES

_QUESTIONS = {
    "adapter-base": "What did fine-tuning buy?",
    "student-base": "What does the student buy over the base?",
    "student-adapter": "What did the smaller model cost?",
    "student-twin": "What did the teacher buy?",
    "twin-base": "What does the twin, which is offered, buy over the base?",
    "twin-adapter": "What did the smaller model cost?",
}


def write_report(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write `report.md`: what fine-tuning, retrieval and distillation bought or cost."""
    parts = ["# Evaluation", score_table(metrics), retrieval_line(metrics), machine_line(metrics)]
    for name, found in metrics["comparisons"].items():
        parts.append(f"**{_QUESTIONS[name]}** {_comparison(name, found)}")
    parts.append(f"**What did retrieval buy?** {_retrieval_gain(metrics)}")
    parts.append(f"**Which student is offered?** {_offer(metrics['offered'])}")
    parts += [_size_table(metrics), "![scores](scores.png) ![trade-off](tradeoff.png)"]
    parts += ["## By slice", _slice_table(metrics)]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _comparison(name: str, found: Mapping[str, Any]) -> str:
    left, right = name.split("-")
    low, high = found["low"], found["high"]
    sure = "more than" if low > 0 else "less than" if high < 0 else "not distinguishable from"
    return (
        f"The {left} scores {sure} the {right}: {found['difference']:+.3f} {found['metric']} in "
        f"mode {found['mode']} ({found['confidence']:.0%} interval {low:+.3f} to {high:+.3f}, "
        "paired by record)."
    )


def _retrieval_gain(metrics: Mapping[str, Any]) -> str:
    metric = metrics["primary"]["metric"]
    gains = [
        f"{system} {modes['retrieved'][metric] - modes['closed_book'][metric]:+.3f}"
        for system, modes in metrics["systems"].items()
        if {"retrieved", "closed_book"} <= modes.keys()
    ]
    if not gains:
        return "Nothing: the data set has no documents, so every answer is closed book."
    return f"Change of {metric} from closed book to retrieved: {', '.join(gains)}."


def _offer(found: Mapping[str, Any]) -> str:
    text = str(found["text"])
    kept = found["offered_retention"]
    if kept is None:
        return f"{text}. What it keeps cannot be told: {found['retention_reason']}."
    enough = "" if found["keeps_enough"] else ", less than it should"
    return (
        f"{found['system']} {found['name']}, which keeps {kept['value']:.0%} "
        f"[{kept['low']:.0%}, {kept['high']:.0%}] of the adapter's score{enough}: {text}."
    )


def _size_table(metrics: Mapping[str, Any]) -> str:
    primary = metrics["primary"]
    lines = [
        f"| | {primary['metric']}, {primary['mode']} [{primary['confidence']:.0%} interval] | "
        "parameters | weights in memory | latency p50 | p95 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for system, size in metrics["sizes"].items():
        score = metrics["intervals"][system][primary["mode"]]
        lines.append(
            f"| {system} | {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] | "
            f"{size['parameters'] / 1e6:.1f} M | {size['megabytes']:.0f} MB | "
            f"{size['latency_ms_p50'] / 1e3:.2f} s | {size['latency_ms_p95'] / 1e3:.2f} s |"
        )
    return "\n".join(lines)


def _slice_table(metrics: Mapping[str, Any]) -> str:
    metric, mode = metrics["primary"]["metric"], metrics["primary"]["mode"]
    found = metrics["slices"]
    names = sorted({name for rows in found.values() for name in rows})
    lines = [
        f"| {metric}, {mode} | records | " + " | ".join(found) + " |",
        "|---|---:|" + "---:|" * len(found),
    ]
    for name in names:
        counts = next(rows[name]["records"] for rows in found.values() if name in rows)
        cells = [f"{rows[name][metric]:.3f}" for rows in found.values()]
        lines.append(f"| {name or '(none)'} | {counts} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_scores(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write a bar chart of each system's score by mode, with its interval, as PNG."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    primary, found = metrics["primary"], metrics["intervals"]
    modes = [mode for mode in MODES if any(mode in row for row in found.values())]
    width = 0.8 / len(found)
    for place, (system, row) in enumerate(found.items()):
        shift = (place - (len(found) - 1) / 2) * width
        middles = [at + shift for at, mode in enumerate(modes) if mode in row]
        bars = [row[mode] for mode in modes if mode in row]
        values = [bar["value"] for bar in bars]
        below = [bar["value"] - bar["low"] for bar in bars]
        above = [bar["high"] - bar["value"] for bar in bars]
        axes.bar(middles, values, width * 0.92, label=system)
        axes.errorbar(middles, values, yerr=[below, above], fmt="none", ecolor="black", capsize=3)
    axes.set_xticks(range(len(modes)), [mode.replace("_", " ") for mode in modes])
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"{primary['metric']} ({primary['confidence']:.0%} intervals)")
    axes.legend(frameon=False, ncols=len(found), loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def plot_tradeoff(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write each system's score, with its interval, over its parameters, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    mode = metrics["primary"]["mode"]
    for place, (system, size) in enumerate(metrics["sizes"].items()):
        score, millions = metrics["intervals"][system][mode], size["parameters"] / 1e6
        error = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
        # Students of one size, and base and adapter, lie side by side instead of on each other.
        axes.errorbar(
            millions * (1 + 0.004 * place),
            score["value"],
            yerr=error,
            fmt="o",
            capsize=3,
            label=f"{system}: {size['latency_ms_p50'] / 1e3:.1f} s, {size['megabytes']:.0f} MB",
        )
    axes.set(
        title=f"mode {mode}; latency is the median to a row's last token",
        xlabel="million parameters",
        ylabel=metrics["primary"]["metric"],
        ylim=(0, 1),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
