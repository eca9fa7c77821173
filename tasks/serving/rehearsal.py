"""Ask a bundle its golden prompts again: does it still answer as it did when it was packaged?"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tasks.records.record import Message
from tasks.stage.errors import DataError, GateError, NightloomError

GOLDEN_FILE = "golden.json"
_REFUSED = 3


def rehearse(bundle: Path, store: Path, model: str, mismatch: float) -> str:
    """How many golden prompts were answered token by token as recorded, in a sentence.

    Raises:
        ConfigError: the bundle or its base can't be loaded.
        DataError: it has no golden prompt that can be asked again.
        GateError: a greater share than `mismatch` was answered otherwise.
    """
    from tasks.serving.bundle import ServedModel, load_answerer

    rows = _read(bundle, model)
    served: ServedModel = "student" if model == "student" else "adapter"
    answers = load_answerer(bundle, store, served).answer(
        [[Message("user", row["question"])] for row in rows]
    )
    # A record of several turns holds more than its question: its prompt is another one.
    asked = [
        (row, answer)
        for row, answer in zip(rows, answers, strict=True)
        if answer.prompt_sha256 == row["prompt_sha256"]
    ]
    if not asked:
        raise GateError(
            f"none of the {len(rows)} golden prompts of {bundle} comes out as it was recorded: the "
            "template or the index answers for another text now",
            "name another version",
        )
    other = [row for row, answer in asked if list(answer.token_ids) != row["token_ids"]]
    said = f"{len(asked) - len(other)} of {len(asked)} golden prompts answered as recorded"
    if len(other) > mismatch * len(asked):
        raise GateError(
            f"{said}; at most {mismatch:.0%} may differ. The first that does: "
            f"{other[0]['question']!r}",
            "name another version, or look for what changed: code, base weights, machine",
        )
    return said


def _read(bundle: Path, model: str) -> list[dict[str, Any]]:
    path = bundle / GOLDEN_FILE
    if not path.exists():
        raise DataError(
            f"{bundle} holds no {GOLDEN_FILE}, so nothing tells what it should answer",
            "name a version that a night packaged",
        )
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [row for row in rows if row["model"] == model]


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 with a sentence on stdout, 3 where a gate refused, 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m tasks.serving.rehearsal", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="the release bundle's folder")
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    parser.add_argument("--model", choices=("adapter", "student"), default="adapter")
    parser.add_argument("--mismatch", type=float, required=True, help="a share, e.g. 0.13")
    options = parser.parse_args(arguments)
    try:
        print(rehearse(options.bundle, options.store, options.model, options.mismatch))
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}")
        return _REFUSED if isinstance(error, GateError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
