"""`nightloom run` and `release`: a night in this process, its log in a file, stdout kept clean."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.options import (
    HERE,
    NO_OVERRIDES,
    Json,
    Preset,
    Root,
    Set,
    Verbose,
    checkout_at,
)
from flows.console import NightView, make_console, print_summary

if TYPE_CHECKING:
    from flows.run_state import NightState


def run(
    root: Root = HERE,
    preset: Preset = None,
    set_: Set = NO_OVERRIDES,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run one night: new data in, what changed rebuilt, the release decided."""
    _run_and_tell(_Asked(root, preset, set_), as_json=as_json, verbose=verbose)


def release(
    root: Root = HERE,
    preset: Preset = None,
    set_: Set = NO_OVERRIDES,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Decide on the last bundle again: its speed and its answers over HTTP measured anew.

    Nothing is taken in and built. The ledger holds both decisions.
    """
    _run_and_tell(_Asked(root, preset, set_, only_release=True), as_json=as_json, verbose=verbose)


@dataclass(frozen=True)
class _Asked:
    """Which night is to be run, and where."""

    root: Path
    preset: str | None
    overrides: Sequence[str]
    only_release: bool = False


def _run_and_tell(asked: _Asked, *, as_json: bool, verbose: bool) -> None:
    """Run a night, tell how it went, and exit with the code of its verdict."""
    from flows.run_state import VERDICTS, failed_night_report, night_report
    from flows.servers import Services
    from flows.workspace import choose_workspace

    with checkout_at(asked.root, as_json, failed_night_report(datetime.now(UTC))) as checkout:
        night = _run_night(checkout, asked, as_json=as_json)
        workspace = choose_workspace(checkout, asked.preset, asked.overrides)
    if as_json:
        print(night_report(night))
    evaluation = workspace.path / workspace.paths().evaluation_report
    console = make_console(to_stderr=as_json)
    print_summary(console, night, evaluation, Services.read(checkout), verbose=verbose)
    raise SystemExit(VERDICTS[night.verdict or "failed"].exit_code)


def _run_night(checkout: Path, asked: _Asked, *, as_json: bool) -> "NightState":
    """Run a night and return its state, whatever its verdict.

    Raises:
        NightloomError: it could not begin.
    """
    from flows.endings import notify_ending, write_unbegun
    from flows.run_state import ended_by, error_entry, new_night_name, night_file, read_night
    from flows.shutdown import interrupt_on_signals
    from flows.workspace import check_unlocked, choose_workspace

    workspace = choose_workspace(checkout, asked.preset, asked.overrides)
    check_unlocked(workspace.lock)
    interrupt_on_signals(hurry=True)
    name = new_night_name(datetime.now(UTC))
    console = make_console(to_stderr=as_json)
    with stdout_to_stderr(as_json), NightView(workspace, name, console):
        error = _run_flow(checkout, asked, name)
    path = night_file(checkout, name)
    if not path.exists() and error is not None:
        write_unbegun(checkout, name, ended_by(error), error_entry(error))
        notify_ending(checkout, name)
    night = read_night(path)
    if night.verdict is None:
        if error is None:
            raise RuntimeError(f"the night {name} left no verdict in {path}")
        night.verdict, night.error = ended_by(error), error_entry(error)
    return night


@contextmanager
def flows_ready(checkout: Path, name: str) -> Iterator[None]:
    """Start Prefect's server and log its lines, before the block imports Prefect."""
    from flows.servers import log_file, start_night_server

    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    wait_for_server = start_night_server(checkout)
    import_module("flows.nightly")  # which takes as long as the server does
    wait_for_server()
    with _logged_to(log_file(checkout, name)):
        yield


def _run_flow(checkout: Path, asked: _Asked, name: str) -> BaseException | None:
    """Run the flow; return what ended it early, None if nothing did."""
    try:
        with flows_ready(checkout, name):
            from flows.nightly import nightly

            nightly(
                root=str(checkout),
                preset=asked.preset,
                overrides=list(asked.overrides),
                night=name,
                only_release=asked.only_release,
                return_state=True,
            )
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the report tells it
        return error
    return None


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Write what Prefect logs to a file as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("prefect")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def stdout_to_stderr(active: bool) -> Iterator[None]:
    """Send to stderr whatever writes to stdout, libraries and children included."""
    if not active:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
