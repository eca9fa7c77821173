"""Flow runs as `nightloom up` finds them: open questions are asked again, scheduled runs named."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.environment import open_checkout
from flows.nightly import name_scheduled_nights
from flows.promoter import make_promoter
from tasks.orchestration.release import ask_for_approval
from tasks.registry.approval import expire_old
from tasks.registry.versions import MODELS
from tasks.stage.errors import NightloomError

_SCHEDULER_SECONDS = 15.0  # Prefect's looks at new deployments every 5


def ask_again(checkout: Path) -> list[str]:
    """Return a sentence on what became of each question that nobody has answered.

    Call it while no worker runs: a flow run that waits for an answer then waits in no process, and
    an answer given to it would reach nobody.
    """
    promoter = make_promoter(checkout)
    ledger, params, downloads = promoter.ledger, promoter.params, promoter.downloads
    with promoter.lock.held():
        told = [text for model in MODELS for text in expire_old(ledger, model, params, downloads)]
    shared = promoter.lock.shared
    return told + [
        text for model in MODELS for text in ask_for_approval.fn(model, ledger, shared=shared)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 with what became of each question on stdout, 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m flows.open_approvals", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="a folder of the project")
    options = parser.parse_args(arguments)
    try:
        told = ask_again(open_checkout(options.root))
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for text in told:
        print(text)
    name_scheduled_nights(wait_seconds=_SCHEDULER_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
