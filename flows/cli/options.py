"""The options that commands share, and how they end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.console import make_console, print_error
from flows.run_state import error_entry
from tasks.stage.errors import GateError, NightloomError

EXIT_FAILED = 1
EXIT_REFUSED = 3


class ModelName(StrEnum):
    """The two models of a night."""

    adapter = "adapter"
    student = "student"


Root = Annotated[Path, typer.Option("--root", help="A folder of the project.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Preset = Annotated[str | None, typer.Option("--preset", help="A list in params/presets/.")]
Set = Annotated[list[str], typer.Option("--set", help="FILE.KEY=VALUE; can be repeated.")]
Alias = Annotated[
    str | None, typer.Option(help="Instead of production, else staging, else candidate.")
]
Which = Annotated[ModelName, typer.Option("--model", help="The adapter or its student.")]

HERE = Path()


@contextmanager
def errors_told(as_json: bool, empty: dict[str, Any] = {}) -> Iterator[None]:  # noqa: B006
    """Tell a failure that a person can mend, without a traceback, and exit.

    `empty` is the rest of the JSON object that the command would have printed.
    """
    try:
        yield
    except NightloomError as error:
        entry = error_entry(error)
        print_error(make_console(to_stderr=True), entry)
        if as_json:
            print(json.dumps(empty | {"error": entry.model_dump(by_alias=True)}))
        raise SystemExit(EXIT_REFUSED if isinstance(error, GateError) else EXIT_FAILED) from None
