"""`nightloom up`, `down` and `env`: the servers, and what a shell needs to talk to them."""

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli.options import HERE, NO_OVERRIDES, Preset, Root, Set, checkout_at, errors_told
from flows.cli.status import mlflow_links, print_links
from flows.console import make_console

if TYPE_CHECKING:
    from flows.servers import Running
    from flows.supervision import Supervision


def up(
    root: Root = HERE,
    prefect_port: Annotated[
        int | None, typer.Option(help="Prefect's port.", show_default="4200, or the next free one")
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(help="MLflow's port.", show_default="5000, or the next free one")
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(help="When nights start.", show_default="the schedule of prefect.yaml"),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Timezone of --cron.")] = "Etc/UTC",
    preset: Preset = None,
    set_: Set = NO_OVERRIDES,
) -> None:
    """Start Prefect, MLflow and a worker, deploy the schedule; Ctrl-C stops them all.

    So do `nightloom down`, SIGTERM and a closed terminal; under `nohup` it outlives the terminal.
    """
    with checkout_at(root) as checkout:
        from flows.endings import tell_gave_up
        from flows.ports import claimed_ports
        from flows.servers import Schedule, running_services, write_deployments
        from flows.shutdown import interrupt_on_signals
        from flows.supervision import GaveUpError
        from flows.workspace import choose_workspace

        choose_workspace(checkout, preset, set_)
        schedule = None if cron is None else Schedule(cron, timezone)
        deployments = write_deployments(checkout, preset, set_, schedule)
        interrupt_on_signals(hurry=False)
        console = make_console()
        try:
            with (
                claimed_ports(prefect_port, mlflow_port) as ports,
                running_services(checkout, *ports, deployments) as running,
            ):
                _welcome(console, checkout, running)
                try:
                    _supervise(running.supervision, console)
                finally:
                    _tell(console, "stopping, a night that runs first")
        except GaveUpError as error:
            tell_gave_up(checkout, error)
            raise
        except KeyboardInterrupt:
            _tell(console, "stopped")


def _welcome(console: Console, checkout: Path, running: "Running") -> None:
    """Print where the servers are and how a browser is let in, and what was closed at the start."""
    from flows.credentials import mlflow_secret_file, secret_file
    from flows.environment import find_stores
    from flows.run_state import last_nights

    console.print(f"Prefect: {running.services.prefect}")
    console.print(f"         its page asks for the line in {secret_file(checkout)}")
    console.print(f"MLflow:  {running.services.mlflow}")
    console.print("         a browser asks for user and password, which are before and")
    console.print(f"         after the colon in {mlflow_secret_file(checkout)}")
    print_links(console, mlflow_links(find_stores(checkout), last_nights(checkout, 2)))
    for line in running.told:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print("the nightly deployment is scheduled; Ctrl-C stops everything")


def _supervise(supervision: "Supervision", console: Console) -> None:
    """Start again what ends by itself, until a signal comes.

    Raises:
        GaveUpError: one ends too often.
    """
    while True:
        for line in supervision.look():
            _tell(console, line)
        time.sleep(1)


def _tell(console: Console, text: str) -> None:
    """Tell a terminal that may have been closed."""
    with suppress(OSError):
        console.print(text)


def down(root: Root = HERE) -> None:
    """Stop what `nightloom up` started, and say "stopped" when nothing of it lives.

    A night in the worker is ended, writes down that it was, and the next one goes on from there. A
    night or sweep of another shell is waited for before anything stops.
    """
    console = make_console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with checkout_at(root) as checkout:
        from flows.run_state import abandoned_nights
        from flows.shutdown import stop_services

        stopped = stop_services(checkout, say)
        if abandoned_nights(checkout, 3):  # killed with all that watched them
            from flows.abandoned import close_abandoned  # takes seconds to import

            for line in close_abandoned(checkout, prefect=False):
                say(line)
    console.print("stopped" if stopped else "nothing was up")


def env(root: Root = HERE) -> None:
    """Print what a shell needs for plain prefect, dvc and mlflow: eval "$(nightloom env)"."""
    with errors_told():
        from flows.environment import shell_lines
        from flows.workspace import find_checkout

        lines = shell_lines(find_checkout(root))
    print("\n".join(lines))
