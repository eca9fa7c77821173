"""Ask a bundle its golden prompts again: does it still answer as it did when it was packaged?"""

import argparse
import sys
from pathlib import Path

from tasks.stage.errors import GateError, NightloomError

_REFUSED = 3


def rehearse(bundle: Path, store: Path, model: str, mismatch: float) -> str:
    """Return how many golden prompts were answered token by token as recorded, in a sentence.

    Raises:
        ConfigError: the bundle or its base can't be loaded, or what each load checks is not so.
        DataError: a file of it is missing or changed.
        GateError: a greater share than `mismatch` was answered otherwise.
    """
    from tasks.answering.golden import GoldenPrompts
    from tasks.answering.loading import load_answerer
    from tasks.records.schema import ServedModel

    served: ServedModel = "student" if model == "student" else "adapter"
    answerer = load_answerer(bundle, store, served)
    golden = GoldenPrompts.read(bundle).models[served]
    answers = answerer.answer([item.prompt.turns for item in golden])
    other = [
        item
        for item, answer in zip(golden, answers, strict=True)
        if answer.token_ids != item.answer_ids
    ]
    said = f"{len(golden) - len(other)} of {len(golden)} golden prompts answered as recorded"
    if len(other) > mismatch * len(golden):
        raise GateError(
            f"{said}; at most {mismatch:.0%} may differ. The first that does: "
            f"{other[0].turns[-1][1]!r}",
            "name another version, or look for what changed: code, base weights, machine",
        )
    return said


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with a sentence on stdout, 3 where a gate refused, 1 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.answering.rehearsal", description=__doc__
    )
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
