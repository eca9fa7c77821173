"""`make evaluation-full`: evaluate the last night's models in depth."""

from collections.abc import Sequence
from pathlib import Path

import typer

from flows.cli.options import HERE, NO_OVERRIDES, Preset, Root, Set, checkout_at
from flows.cli.run import flows_ready, stdout_to_stderr

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate(root: Root = HERE, preset: Preset = None, set_: Set = NO_OVERRIDES) -> None:
    """Evaluate the last night's models in depth; print the folder of the report.

    --preset and --set are those of the night.
    """
    with checkout_at(root) as checkout:
        report = _run_evaluation(checkout, preset, set_)
    print(report)


def _run_evaluation(checkout: Path, preset: str | None, overrides: Sequence[str]) -> Path:
    """Return the folder of a deep evaluation's report; its stages are told on stderr.

    Raises:
        NightloomError: it could not begin, or a stage failed.
    """
    from flows.shutdown import interrupt_on_signals

    interrupt_on_signals(hurry=True)
    with stdout_to_stderr(active=True), flows_ready(checkout, "evaluation-full"):
        from flows.evaluate import evaluate_fully

        return evaluate_fully(root=str(checkout), preset=preset, overrides=list(overrides))


if __name__ == "__main__":
    app(prog_name="python -m flows.cli.evaluate")
