"""Evaluate the last night's models in depth: `make evaluation-full`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.stage.errors import NightloomError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 with the report's folder on stdout, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m flows.cli.evaluate", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="a folder of the project")
    parser.add_argument("--preset", help="the night's: a list in params/presets/")
    parser.add_argument("--set", action="append", default=[], metavar="FILE.KEY=VALUE")
    options = parser.parse_args(arguments)
    # Deferred: what it imports takes seconds, which --help should not.
    from flows.cli.run import run_full_evaluation

    try:
        report = run_full_evaluation(options.root, options.preset, options.set)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
