"""What a training's curves say, in words and as a picture."""

from pathlib import Path

from tasks.lm.fit import Fit, judge_fit
from tasks.stage.metrics import read_curve


def fit_of(scratch: Path, initial: float, *, series: str = "") -> Fit:
    """How well the training fitted whose curves lie in `scratch`."""
    points = read_curve(scratch, "validation_loss", series=series)
    validation = [point for point in points if point[0]]
    return judge_fit(read_curve(scratch, "loss", series=series), validation, initial)


def plot_losses(scratch: Path, target: Path, title: str, *, series: str = "") -> None:
    """Write a PNG of the training and validation loss over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = read_curve(scratch, name, series=series)
        axes.plot(*zip(*points, strict=True), style, label=label)
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per learned token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
