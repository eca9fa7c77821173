"""`nightloom install`: let systemd keep `up` and the dead man's check running."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.cli.options import HERE, NO_OVERRIDES, Preset, Root, Set, errors_told
from flows.console import make_console
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.user_units import Unit

_GUIDE = "docs/guides/install.md"


def install(
    user: Annotated[bool, typer.Option("--user", help="For this user, with no other rights.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be written; write nothing.")
    ] = False,
    name: Annotated[str, typer.Option(help="The service's name.")] = "nightloom",
    root: Root = HERE,
    cron: Annotated[
        str | None,
        typer.Option(help="When nights start.", show_default="the schedule of prefect.yaml"),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Timezone of --cron.")] = "Etc/UTC",
    preset: Preset = None,
    set_: Set = NO_OVERRIDES,
) -> None:
    """Write systemd's units for `nightloom up` and its watch, enable them, and say how to look.

    For the whole machine there are units to copy in deploy/systemd/system.
    """
    assert user  # typer asks for it
    with errors_told():
        from flows.user_units import enable, find_manager, user_units, write_units
        from flows.workspace import choose_workspace, find_checkout

        checkout = find_checkout(root)
        choose_workspace(checkout, preset, set_)
        options = ["--cron", cron, "--timezone", timezone] if cron is not None else []
        options += ["--preset", preset] if preset is not None else []
        options += [word for text in set_ for word in ("--set", text)]
        units = user_units(checkout, options, name, Path.home())
        console = make_console()
        if dry_run:
            _print_units(console, units)
            return
        problem = find_manager()
        if problem is not None:
            raise ConfigError(
                f"systemd does not run for this user: {problem}. Nothing was written",
                "see the units with --dry-run; without systemd, start `nightloom up` at boot by "
                f"other means ({_GUIDE} shows cron)",
            )
        write_units(units)
        enable(units)
        _tell(console, units, name)


def _print_units(console: Console, units: "Sequence[Unit]") -> None:
    for unit in units:
        _print(console, f"# {unit.path}")
        _print(console, unit.text)


def _tell(console: Console, units: "Sequence[Unit]", name: str) -> None:
    for unit in units:
        _print(console, f"wrote {unit.path}")
    for line in (
        "it runs, and starts with this user's first login; to start at boot without one:",
        f"  loginctl enable-linger {getpass.getuser()}",
        "to look:",
        f"  systemctl --user status {name}",
        f"  journalctl --user --unit {name} --follow",
        "  systemctl --user list-timers",
        "to end it and to take it away:",
        f"  systemctl --user disable --now {name}.service {name}-watch.timer",
        f"  rm {' '.join(str(unit.path) for unit in units)}",
    ):
        _print(console, line)


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
