"""Answer questions again with a bundle's model: one conversation a line in, one answer a line out.

A line in is a JSON list of [role, text]; a line out is a `ReplayedAnswer`.
"""

import argparse
import json
import sys
from pathlib import Path

from tasks.feedback.exchanges import ReplayedAnswer, ShownPassage
from tasks.records.schema import Message, ServedModel
from tasks.stage.errors import NightloomError


def replay(
    bundle: Path, store: Path, model: ServedModel, conversations: list[list[Message]]
) -> list[ReplayedAnswer]:
    """Return a model's answer to each conversation, in their order.

    Raises:
        ConfigError: the bundle or its base can't be loaded, or what each load checks is not so.
        DataError: a file of it is missing or changed.
    """
    from tasks.answering.loading import load_answerer

    answers = load_answerer(bundle, store, model).answer(conversations)
    return [
        ReplayedAnswer(
            text=answer.text,
            passages=tuple(
                ShownPassage(id=used.passage.id, text=used.passage.shown, score=used.score)
                for used in answer.passages
            ),
        )
        for answer in answers
    ]


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the answers written, 1 with the reason on stdout."""
    parser = argparse.ArgumentParser(prog="python -m tasks.answering.replay", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="the release bundle's folder")
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    parser.add_argument("--model", choices=("adapter", "student"), required=True)
    parser.add_argument("--questions", type=Path, required=True, help="the file to read")
    parser.add_argument("--answers", type=Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    lines = options.questions.read_text(encoding="utf-8").splitlines()
    asked = [[Message(role, text) for role, text in json.loads(line)] for line in lines]
    try:
        answers = replay(options.bundle, options.store, options.model, asked)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    options.answers.write_text("".join(answer.line() for answer in answers), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
