"""What distillation came to, in numbers, words and a picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.distillation.distiller import StudentOutcome, StudentStart
from tasks.distillation.held_out import (
    CONFIDENCE,
    Bootstrap,
    HeldOutScore,
    divergence_share,
    held_out_interval,
    held_out_metrics,
)
from tasks.distillation.pruning import Influence
from tasks.records.predictions import ROLES
from tasks.stage.pages import plain_markdown
from tasks.statistics.bootstrap import Interval
from tasks.training.diagnostics import Fit


@dataclass(frozen=True)
class DistillationResult:
    """The teacher, what each of its layers does, and what became of its students.

    `overlap` counts the compared examples that also chose the checkpoints.
    """

    teacher_parameters: int
    influence: Influence
    outcomes: tuple[StudentOutcome, ...]
    overlap: int

    @property
    def compared(self) -> list[HeldOutScore]:
        """Return the compared examples, as the first student left them."""
        return self.outcomes[0].trained["student"].held


def distillation_metrics(result: DistillationResult, draw: Bootstrap) -> dict[str, Any]:
    """Return what `metrics.json` holds.

    Losses and divergences, KL(teacher || model) at temperature 1, are means per held-out token in
    nats; agreement is the share of tokens that model and teacher find likeliest alike.
    """
    return {
        "teacher": {
            "parameters": result.teacher_parameters,
            "loss": asdict(held_out_interval(result.compared, "teacher_loss", draw)),
        },
        "influence": list(result.influence.values),
        "influence_measure": result.influence.measure,
        "compared_examples": len(result.compared),
        "compared_that_choose_checkpoints": result.overlap,
        "confidence": CONFIDENCE,
        "students": {
            outcome.plan.name: _student_metrics(outcome, draw) for outcome in result.outcomes
        },
    }


def _student_metrics(outcome: StudentOutcome, draw: Bootstrap) -> dict[str, Any]:
    student, control = (outcome.trained[role] for role in ROLES)
    found: dict[str, Any] = {
        "layers": list(outcome.plan.kept or ()),
        "parameters": student.parameters,
        "start": _start(outcome.start, draw),
        "divergence_share": asdict(divergence_share(student.held, control.held, draw)),
    }
    for role, trained in outcome.trained.items():
        found[role] = held_out_metrics(trained.held, draw) | {
            "training": asdict(trained.training),
            "fit": asdict(trained.fit),
        }
    return found


def _start(start: StudentStart, draw: Bootstrap) -> dict[str, Any]:
    """Return a student's divergence before it learned, and how near its layers were brought."""
    found: dict[str, Any] = {
        "divergence_made": held_out_interval(start.made, "divergence", draw).value
    }
    if start.reconstruction is not None:
        found["divergence_fitted"] = held_out_interval(start.fitted, "divergence", draw).value
        found["reconstruction"] = asdict(start.reconstruction)
    return found


def write_report(result: DistillationResult, found: Mapping[str, Any], folder: Path) -> None:
    """Write `report.md` from the metrics."""
    parts = [
        "# Distillation",
        f"The teacher has {result.teacher_parameters / 1e6:.1f} million parameters and "
        f"{len(result.influence.values)} layers. All were compared on the same "
        f"{len(result.compared)} held-out examples; in brackets {CONFIDENCE:.0%} bootstrap "
        "intervals over examples. A control begins as its student does and learns the same "
        "examples without the teacher."
        + (
            f" {result.overlap} of them also chose the checkpoints: the validation split is small."
            if result.overlap
            else ""
        ),
    ]
    for outcome in result.outcomes:
        parts += _student(outcome, result, found)
    (folder / "report.md").write_text(plain_markdown("\n\n".join(parts) + "\n"), encoding="utf-8")


def _student(
    outcome: StudentOutcome, result: DistillationResult, found: Mapping[str, Any]
) -> list[str]:
    name = outcome.plan.name
    own = found["students"][name]
    share = Interval(**own["divergence_share"])
    size = own["parameters"] / result.teacher_parameters
    rows = [("teacher", {"loss": found["teacher"]["loss"]}), *((role, own[role]) for role in ROLES)]
    table = [
        "| | loss | KL(teacher, model) | same likeliest token |",
        "|---|---:|---:|---:|",
        *(
            f"| {role} | "
            + " | ".join(_cell(row.get(figure)) for figure in ("loss", "divergence", "agreement"))
            + " |"
            for role, row in rows
        ),
    ]
    student, control = (outcome.trained[role] for role in ROLES)
    training = student.training
    return [
        f"## Student {name}",
        _layers(outcome, len(result.influence.values))
        + f" {own['parameters'] / 1e6:.1f} million parameters, {size:.0%} of the teacher's.",
        "\n".join(table),
        f"{_verdict(share)} {_start_sentence(own['start'])}",
        f"{training.steps} steps over {training.tokens} tokens, of which "
        f"{training.supervised_tokens} learned; {training.computed_tokens} went through the model "
        f"(shared beginnings once). The control stopped after {control.training.steps} steps.",
        "\n".join(_slices(own)),
        _fit_sentence(outcome.start, student.fit),
        f"Fit of the control: {control.fit.text}",
        f"![losses](loss-student-{name}.png) ![losses of the control](loss-control-{name}.png)",
    ]


def _fit_sentence(start: StudentStart, fit: Fit) -> str:
    """Say how the student's training went, which may well bring nothing after least squares."""
    if start.reconstruction is not None and fit.verdict == "not_learning":
        return (
            "Its training brought the student hardly further than least squares had "
            f"({fit.reason})."
        )
    return f"Fit of the student: {fit.text}"


def _layers(outcome: StudentOutcome, total: int) -> str:
    if outcome.plan.kept is None:
        return "A model of its own."
    dropped = [number for number in range(total) if number not in outcome.plan.kept]
    return (
        f"{len(outcome.plan.kept)} of {total} layers stay; {dropped} are left out "
        "([influence of each](influence.png))."
    )


def _verdict(share: Interval) -> str:
    told = f"its KL from the teacher is {share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of"
    if share.high < 1:
        return f"**The teacher's signal brought the student nearer to it: {told} its control's.**"
    if share.low > 1:
        return f"**The teacher's signal took the student away from it: {told} its control's.**"
    return f"**The teacher's signal made no difference that can be told: {told} its control's.**"


def _start_sentence(start: Mapping[str, Any]) -> str:
    told = f"As it was made, the student's KL was {start['divergence_made']:.3f}"
    if "reconstruction" not in start:
        return f"{told}."
    found = start["reconstruction"]
    return (
        f"{told}; once its {len(found['layers'])} layers from the first gap on were fitted to the "
        f"teacher's states by least squares, on {found['tokens']} tokens, and before it was "
        f"trained, **{start['divergence_fitted']:.3f}**."
    )


def _cell(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _slices(own: Mapping[str, Any]) -> list[str]:
    lines = [
        "| slice | examples | KL student | KL control | same token, student "
        "| same token, control |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in own["student"]["slices"].items():
        control = own["control"]["slices"][name]
        lines.append(
            f"| {name} | {row['examples']} | {row['divergence']:.3f} "
            f"| {control['divergence']:.3f} | {row['agreement']:.0%} | {control['agreement']:.0%} |"
        )
    return lines


def plot_influence(result: DistillationResult, path: Path) -> None:
    """Write a bar chart of the layers' influence, those that each student keeps in colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = result.influence.values
    pruned = [outcome.plan for outcome in result.outcomes if outcome.plan.kept is not None]
    figure = Figure(figsize=(7, 1 + 2 * max(len(pruned), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, plan in enumerate(pruned, start=1):
        axes = figure.add_subplot(len(pruned), 1, place)
        kept = set(plan.kept or ())
        colours = ["C0" if number in kept else "0.8" for number in range(len(values))]
        axes.bar(range(len(values)), values, color=colours)
        # The first and last layers are worth a hundred times the others.
        axes.set_yscale("log")
        axes.set(
            title=f"{plan.name} layers kept (blue)", xlabel="layer", ylabel=result.influence.measure
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
