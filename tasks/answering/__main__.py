"""Ask a release bundle one question: the answer, and the passages it was given."""

import argparse
import json
import sys
from pathlib import Path

from tasks.records.schema import Message
from tasks.stage.errors import ConfigError, NightloomError


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the answer on stdout, 1 with the reason on stderr."""
    options = _parser().parse_args(arguments)
    try:
        # Deferred: torch takes seconds to import, which --help should not.
        from tasks.answering.loading import load_answerer
        from tasks.retrieval.filters import Where

        where = Where.parse(options.where) if options.where else None
        bundle = Path(sys.stdin.readline().strip()) if options.bundle == "-" else options.bundle
        question = sys.stdin.read() if options.question == "-" else options.question
        if not question.strip():
            raise ConfigError("the question is empty; expected some text", "ask something")
        answerer = load_answerer(Path(bundle), options.store, options.model)
        (answer,) = answerer.answer([[Message("user", question)]], where=where)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    passages = [
        {"id": item.passage.id, "text": item.passage.shown, "score": item.score}
        for item in answer.passages
    ]
    if options.json:
        found = {"answer": answer.text, "passages": passages, "latency_ms": answer.latency_ms}
        print(json.dumps(found | {"model": options.model}, ensure_ascii=False))
        return 0
    print(answer.text)
    for number, passage in enumerate(passages, start=1):
        print(f"\n[{number}] {passage['id']}\n{passage['text']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.answering", description=__doc__)
    parser.add_argument(
        "--bundle",
        required=True,
        help="the release bundle's folder, or - for a line of standard input that names it",
    )
    parser.add_argument("--store", type=Path, required=True, help="the folder of base models")
    parser.add_argument("--model", choices=("adapter", "student"), default="adapter")
    parser.add_argument(
        "--question",
        required=True,
        help="what to ask, or - for the rest of standard input, which no process list shows",
    )
    parser.add_argument(
        "--where",
        action="append",
        metavar="FIELD=VALUE",
        help="search only passages of this source, license, title or document (repeatable)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
