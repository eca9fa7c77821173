"""`nightloom ask`: ask one question, and show the answer with its passages."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli.options import HERE, Alias, Json, ModelName, Root, Which, checkout_at, print_json
from flows.console import make_console

if TYPE_CHECKING:
    from flows.answers import ModelAnswer


def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    root: Root = HERE,
    model: Which = ModelName.adapter,
    alias: Alias = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="FIELD=VALUE: search only passages with this source, license, title or document; "
            "can be repeated.",
            show_default="all passages",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the champion; show its answer and the passages it used."""
    with checkout_at(root, as_json) as checkout:
        from flows.answers import ask_model
        from tasks.services.processes import hide_argument

        if question == "-":
            question = sys.stdin.read()
        else:
            hide_argument(question)
        answer = ask_model(checkout, question, model.value, alias, where or [])
    if as_json:
        print_json(answer)
    else:
        _print_answer(make_console(), answer)


def _print_answer(console: Console, answer: "ModelAnswer") -> None:
    """Show an answer, the passages it was given, and who gave it."""
    console.print(answer.answer, markup=False, highlight=False, style="bold")
    for number, passage in enumerate(answer.passages, start=1):
        console.print(f"\n[{number}] {passage.id}", markup=False, highlight=False, style="dim")
        console.print(passage.text, markup=False, highlight=False)
    by = "" if answer.server is None else f", by the server at {answer.server}"
    who = f"{answer.model} version {answer.version} ({answer.alias}){by}"
    console.print(f"\n{who}, {answer.latency_ms / 1000:.1f} s", style="dim", highlight=False)
