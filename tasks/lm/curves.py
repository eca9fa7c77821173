"""A training's curves as a picture."""

import json
from pathlib import Path

from tasks.stage.metrics import CURVES_FILE


def plot_losses(scratch: Path, target: Path, title: str) -> None:
    """Write a PNG of the training and validation loss over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = (scratch / CURVES_FILE).read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        chosen = [(point["step"], point["value"]) for point in points if point["name"] == name]
        axes.plot(*zip(*chosen, strict=True), style, label=label)
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per learned token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
