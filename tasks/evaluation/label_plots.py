"""Pictures of task classify: what was taken for what, and probabilities beside what was right."""

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.evaluation.label_report import LabelReport
from tasks.evaluation.plots import Naming
from tasks.scoring.label_scores import BINS

# With more labels their names could not be read.
_NAMED = 40
_OUTSIDE = "(no label)"


def draw_labels(found: LabelReport, naming: Naming) -> dict[str, Figure]:
    """Return pictures by name: confusion (the adapter's), calibration (of all systems)."""
    return {
        "confusion": _confusion(found, naming),
        "calibration": _calibration(found),
    }


def _confusion(found: LabelReport, naming: Naming) -> Figure:
    """Return the adapter's confusion matrix, each row in shares of its label's records."""
    confusion = found.confusions["adapter"]
    count = len(confusion.labels)
    side = 3.5 + 0.16 * min(count, _NAMED) + 0.03 * max(0, count - _NAMED)
    figure, axes = _figure(side + 1.2, side)
    shares = [[value / max(1, sum(row)) for value in row] for row in confusion.counts]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, label="share of the right label's records")
    if count <= _NAMED:
        names = [naming(label, place) for place, label in enumerate(confusion.labels)]
        axes.set_xticks(range(count + 1), [*names, _OUTSIDE], rotation=90, fontsize="small")
        axes.set_yticks(range(count), names, fontsize="small")
    where = "" if count <= _NAMED else ", by place in the table by label"
    axes.set(xlabel=f"label given by the adapter{where}; last: no label", ylabel="right label")
    return figure


def _calibration(found: LabelReport) -> Figure:
    """Return how often labels are right by how probable the model found them, system by system."""
    figure, axes = _figure(6, 5)
    axes.plot([0, 1], [0, 1], color="#808080", linewidth=1, linestyle=":")
    for place, (system, one) in enumerate(found.calibrations.items()):
        axes.plot(
            [part.probability for part in one.bins],
            [part.accuracy for part in one.bins],
            marker="o",
            markersize=4,
            color=f"C{place}",
            label=f"{system}: error {one.ece:.3f}",
        )
    axes.set(
        xlim=(0, 1), ylim=(0, 1), ylabel="share that is right",
        xlabel=f"probability of the label given, in {BINS} bins (on the dotted line: as it says)",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    if found.calibrations:
        axes.legend(frameon=False, fontsize="small")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
