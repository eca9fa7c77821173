"""What Prefect's server must hold before a worker starts, made in one process.

`python -m flows.deploy`; `nightloom up` runs it. Prefect's own commands do the work: called one
after the other here, they share the imports that took each of them seconds. All deployments are
one command, since each command sets up Prefect's logging anew.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from prefect.cli import app

from flows import open_approvals
from flows.abandoned import close_abandoned
from flows.environment import open_checkout
from flows.rerun import catch_up
from flows.servers import TOLD
from tasks.orchestration.flow_runs import make_heartbeat_watch
from tasks.registry.lock import PROMOTION_LIMIT
from tasks.stage.errors import NightloomError


def run_prefect(*words: str) -> tuple[int, str]:
    """Run `prefect WORDS` in this process; return its exit code and what it printed."""
    said, given = StringIO(), sys.argv
    sys.argv = ["prefect", "--no-prompt", *words]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            app()
        code: object = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = given
    return (code if isinstance(code, int) else int(code is not None)), said.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the work pool and the promoters' limit where they are missing; deploy a file.

    What an earlier one left open is closed, a night that was interrupted or missed is started, and
    questions that ended with an earlier worker are asked again. Return 0, or 1 with the command
    that failed and what it printed.
    """
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=__doc__)
    parser.add_argument("--pool", required=True, help="the worker's pool")
    parser.add_argument("--template", required=True, help="the pool's base job template")
    parser.add_argument("--prefect-file", default="prefect.yaml", help="what is deployed")
    options = parser.parse_args(arguments)
    for words in (
        ["work-pool", "create", options.pool, "--type", "process", "--overwrite",
         "--base-job-template", options.template],
        ["gcl", "create", PROMOTION_LIMIT, "--limit", "1"],
        ["deploy", "--all", "--prefect-file", options.prefect_file],
    ):  # fmt: skip
        code, told = run_prefect(*words)
        known = PROMOTION_LIMIT in words and "already exists" in told
        if code != 0 and not known:
            print(f"`prefect {' '.join(words)}` failed:\n{told[-3000:]}")
            return 1
    try:
        checkout = open_checkout(Path())
        lines = [*close_abandoned(checkout), *catch_up(checkout, missed=True)]
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    make_heartbeat_watch()
    print("".join(f"{TOLD}{line}\n" for line in lines), end="")
    return open_approvals.main(["--root", str(Path())])


if __name__ == "__main__":
    sys.exit(main())
