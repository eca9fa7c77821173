"""One night in this process, with its log in a file and stdout kept clean."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import NightView, make_console
from flows.environment import open_checkout
from flows.run_state import NightState, error_entry, new_night_name, night_file, read_night
from flows.servers import log_file, start_night_server
from flows.shutdown import interrupt_on_signals
from flows.workspace import check_unlocked, choose_workspace, without_file

if TYPE_CHECKING:
    from flows.sweep import Sweep


def run_night(
    root: Path, preset: str | None, overrides: Sequence[str], *, as_json: bool
) -> NightState:
    """The night, over, whatever its verdict.

    Raises:
        NightloomError: it could not begin.
    """
    checkout = open_checkout(root)
    workspace = choose_workspace(checkout, preset, overrides)
    check_unlocked(workspace.lock)
    interrupt_on_signals(hurry=True)
    name = new_night_name(datetime.now(UTC))
    console = make_console(to_stderr=as_json)
    with _stdout_to_stderr(as_json), NightView(workspace, name, console):
        error = _run_flow(checkout, preset, overrides, name)
    path = night_file(checkout, name)
    if path.exists():
        night = read_night(path)
        if night.verdict is not None:
            return night
    if error is None:
        raise RuntimeError(f"the night {name} left no verdict in {path}")
    failed = NightState(
        night=name, workspace=str(workspace.path), pid=os.getpid(), verdict="failed"
    )
    failed.error = error_entry(error)
    return failed


def run_sweep(root: Path, preset: str | None, overrides: Sequence[str]) -> "Sweep":
    """What a sweep came to; its trials are told on stderr as they end.

    Raises:
        NightloomError: it could not begin, or gave no value.
    """
    checkout = open_checkout(root)
    check_unlocked(choose_workspace(checkout, preset, without_file("sweep", overrides)).lock)
    interrupt_on_signals(hurry=True)
    with _stdout_to_stderr(active=True), _flows_ready(checkout, "sweep"):
        from flows.sweep import sweep

        return sweep(root=str(checkout), preset=preset, overrides=list(overrides))


def run_full_evaluation(root: Path, preset: str | None, overrides: Sequence[str]) -> Path:
    """The folder of a deep evaluation's report; its stages are told on stderr.

    Raises:
        NightloomError: it could not begin, or a stage failed.
    """
    checkout = open_checkout(root)
    interrupt_on_signals(hurry=True)
    with _stdout_to_stderr(active=True), _flows_ready(checkout, "evaluation-full"):
        from flows.evaluate import evaluate_fully

        return evaluate_fully(root=str(checkout), preset=preset, overrides=list(overrides))


@contextmanager
def _flows_ready(checkout: Path, name: str) -> Iterator[None]:
    """Prefect's server up and its lines in a log; what runs in the block imports Prefect."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    wait_for_server = start_night_server(checkout)
    import_module("flows.nightly")  # which takes as long as the server does
    wait_for_server()
    with _log_to(log_file(checkout, name)):
        yield


def _run_flow(
    checkout: Path, preset: str | None, overrides: Sequence[str], name: str
) -> BaseException | None:
    """What ended the flow early, None where nothing did."""
    try:
        with _flows_ready(checkout, name):
            from flows.nightly import nightly

            nightly(
                root=str(checkout),
                preset=preset,
                overrides=list(overrides),
                night=name,
                return_state=True,
            )
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the report tells it
        return error
    return None


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
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
def _stdout_to_stderr(active: bool) -> Iterator[None]:
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
