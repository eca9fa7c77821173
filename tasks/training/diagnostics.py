"""How well a training fitted, read from its curves: a verdict, the param to change, a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from tasks.stage.metrics import read_curve

Point = tuple[int, float]

# Shares of the validation loss: below the first two it is noise, above the third memory.
_GAIN = 0.02

_LOSS = 0.02

_GAP = 0.4


@dataclass(frozen=True)
class Fit:
    """A verdict on a training, what it was read from, and what to do about it."""

    verdict: Literal["good", "underfitted", "overfitted", "not_learning"]
    reason: str
    dial: str

    @property
    def text(self) -> str:
        """Return the verdict as a line of a report."""
        return f"**{self.verdict}** ({self.reason}). What to turn: {self.dial}."


def diagnose_fit(training: Sequence[Point], validation: Sequence[Point], initial: float) -> Fit:
    """Return the verdict on losses by step, in nats; `initial` is the validation loss before the
    first.

    Not learning: validation never got better than before. Overfitted: it got worse again, or the
    training loss fell far below it. Underfitted: it was still falling when the training ended.
    """
    best_step, best = min(validation, key=lambda point: point[1])
    last_step, last = validation[-1]
    final = fmean(loss for _, loss in training[-max(len(training) // 4, 1) :])
    if best > initial * (1 - _GAIN):
        rose = final > training[0][1]
        return Fit(
            "not_learning",
            f"validation loss {initial:.3f} before, {best:.3f} at best",
            "lower learning_rate" if rose else "raise learning_rate, or look at the data's labels",
        )
    if last > best * (1 + _LOSS):
        return Fit(
            "overfitted",
            f"validation loss {best:.3f} at step {best_step}, {last:.3f} at step {last_step}; the "
            "best one is kept",
            "fewer epochs, a lower rank or learning_rate, more dropout, or more data",
        )
    if final < best * (1 - _GAP):
        return Fit(
            "overfitted",
            f"training loss {final:.3f} at the end, validation loss {best:.3f}: what is learned "
            "is the examples",
            "fewer epochs, a lower rank, more dropout, or more data",
        )
    which, before, now = "validation", validation[-2:][0][1], last
    if len(validation) == 1:  # which says nothing of how it went
        quarter = max(len(training) // 4, 1)
        earlier = [loss for _, loss in training[-2 * quarter : -quarter]]
        which, before, now = "training", fmean(earlier) if earlier else final, final
    if now < before * (1 - _GAIN):
        return Fit(
            "underfitted",
            f"{which} loss still fell at the end, {before:.3f} to {now:.3f}",
            "raise token_budget or epochs, or learning_rate where time is short",
        )
    return Fit(
        "good", f"validation loss {initial:.3f} before, {last:.3f} at the end and level", "none"
    )


def fit_of(scratch: Path, initial: float, *, series: str = "") -> Fit:
    """Return how well the training fitted whose curves lie in `scratch`."""
    points = read_curve(scratch, "validation_loss", series=series)
    validation = [point for point in points if point[0]]
    return diagnose_fit(read_curve(scratch, "loss", series=series), validation, initial)


def plot_losses(
    scratch: Path, target: Path, title: str, *, series: str = "", learned: str = "learned token"
) -> None:
    """Write a PNG of the training and validation loss over steps, in nats a `learned` thing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = read_curve(scratch, name, series=series)
        axes.plot(*zip(*points, strict=True), style, label=label)
    axes.set(title=title, xlabel="optimizer step", ylabel=f"loss (nats per {learned})")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
