"""A training's curves, read back and as a picture."""

import json
from pathlib import Path

from tasks.lm.fit import Fit, Point, judge_fit
from tasks.stage.metrics import CURVES_FILE


def read_curve(scratch: Path, name: str) -> list[Point]:
    """The points of one curve of a stage, (step, value), as they came."""
    lines = (scratch / CURVES_FILE).read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    return [(point["step"], point["value"]) for point in points if point["name"] == name]


def fit_of(scratch: Path, initial: float) -> Fit:
    """How well the training fitted whose curves lie in `scratch`."""
    validation = [point for point in read_curve(scratch, "validation_loss") if point[0]]
    return judge_fit(read_curve(scratch, "loss"), validation, initial)


def plot_losses(scratch: Path, target: Path, title: str) -> None:
    """Write a PNG of the training and validation loss over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        axes.plot(*zip(*read_curve(scratch, name), strict=True), style, label=label)
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per learned token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
