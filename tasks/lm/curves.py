"""What a training's curves say, in words and as a picture."""

from pathlib import Path

from tasks.lm.fit import Fit, judge_fit
from tasks.stage.metrics import read_curve


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
