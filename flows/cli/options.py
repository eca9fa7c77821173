"""The options that commands share, how they print JSON, and how they end."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import EXIT_FAILED, EXIT_REFUSED
from tasks.stage.errors import GateError, NightloomError


class ModelName(StrEnum):
    """The two models of a night."""

    adapter = "adapter"
    student = "student"


Root = Annotated[Path, typer.Option("--root", help="A folder of the project.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="A list in params/presets/.", show_default="none"),
]
Set = Annotated[
    list[str],
    typer.Option("--set", help="FILE.KEY=VALUE; can be repeated.", show_default="none"),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the rules that passed, too.")]
Alias = Annotated[
    str | None,
    typer.Option(
        help="The alias that names the version.",
        show_default="production, else staging, else candidate",
    ),
]
Which = Annotated[ModelName, typer.Option("--model", help="The adapter or its student.")]
Either = Annotated[
    ModelName | None,
    typer.Option("--model", help="One of the two models.", show_default="both"),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; the ledger keeps it.")]
By = Annotated[
    str | None, typer.Option("--by", help="Who decides.", show_default="the operating user")
]

HERE = Path()
NO_OVERRIDES: list[str] = []


def print_json(found: object) -> None:
    """Print what a command found, for a program: dataclasses, pydantic's models or plain values."""
    from pydantic_core import to_json

    print(to_json(found, indent=1, by_alias=True).decode())


def one_line(text: str, most: int) -> str:
    """Return a text on one line, without the control characters that a model may answer.

    `most` are its characters; a longer one is cut.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else f"{line[:most]} ..."


@contextmanager
def checkout_at(
    root: Path, as_json: bool = False, empty: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Yield the checkout at or above a folder, with this process set up for it.

    What fails is told as `errors_told` says.
    """
    with errors_told(as_json, empty):
        from flows.environment import open_checkout

        yield open_checkout(root)


@contextmanager
def errors_told(as_json: bool = False, empty: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Tell a failure that a person can mend, without a traceback, and exit.

    `empty` is the rest of the JSON object that the command would have printed.
    """
    try:
        yield
    except NightloomError as error:
        from flows.console import make_console, print_error
        from flows.run_state import error_entry

        entry = error_entry(error)
        print_error(make_console(to_stderr=True), entry)
        if as_json:
            print(json.dumps({**(empty or {}), "error": entry.model_dump(by_alias=True)}))
        raise SystemExit(EXIT_REFUSED if isinstance(error, GateError) else EXIT_FAILED) from None
