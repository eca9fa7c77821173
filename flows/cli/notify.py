"""`nightloom notify`: who is told how nights end; try it; tell that none has ended."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows import EXIT_FAILED
from flows.cli.options import HERE, Json, Root, errors_told, print_json
from flows.console import make_console
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from flows.run_state import NightState
    from flows.watch import WatchReport
    from tasks.orchestration.notify import NotifyParams


def notify(
    root: Root = HERE,
    test: Annotated[bool, typer.Option("--test", help="Send a test message to all.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Tell if no night has come to a verdict for too long."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the channels of params/notify.yaml and whom the last night was told.

    A timer of the system runs --check, which needs no server: it exits with 1 where there was no
    verdict for too long. --test exits with 1 where a channel was not reached.
    """
    with errors_told(as_json):
        from flows.workspace import find_checkout

        # No more is set up here: the check works where the rest of a checkout does not.
        checkout = find_checkout(root)
        if test and check:
            raise typer.BadParameter("give --test or --check, not both")
        if test:
            raise SystemExit(_test(checkout, as_json))
        if check:
            raise SystemExit(_check(checkout, as_json))
        _show(checkout, as_json)


def _test(checkout: "Path", as_json: bool) -> int:
    """Send a test message to every channel, and print which were reached."""
    from flows.endings import PARAMS, make_notice, read_notify_params
    from tasks.orchestration.notify import send_and_tell

    params = read_notify_params(checkout)
    if not params.variables():
        raise ConfigError(
            f"{PARAMS} names no channel and no ping: nobody is told how a night ends",
            f"name one there; the comments in {PARAMS} show how",
        )
    notice = make_notice(checkout, "test", "A test: this channel would be told how nights end.")
    outcomes = send_and_tell(notice, params, checkout)
    if as_json:
        print_json(outcomes)
    else:
        _print_outcomes(make_console(), outcomes)
    return EXIT_FAILED if any(outcomes.values()) else 0


def _check(checkout: "Path", as_json: bool) -> int:
    """Tell of a silence and of endings that nobody was told of; print what was found."""
    from flows.watch import check_verdicts

    report = check_verdicts(checkout)
    if as_json:
        print_json(report)
    else:
        _print_report(make_console(), report)
    return EXIT_FAILED if report.silent or report.problem else 0


def _print_report(console: Console, report: "WatchReport") -> None:
    for night, telling in report.endings.items():
        verdict = telling.verdict.replace("_", " ")
        _print(console, f"night {night}: {verdict}; it had been told to nobody, and is told now")
        _print_outcomes(console, telling.channels)
    if report.problem is not None:
        _print(console, report.problem)
    _print(console, report.finding)
    if report.channels is not None:
        _print_outcomes(console, report.channels)
    elif report.silent:
        _print(console, "  this was told before")


def _print_outcomes(console: Console, outcomes: dict[str, str | None]) -> None:
    if not outcomes:
        _print(console, "  no channel hears of it")
    for name, why in outcomes.items():
        _print(console, f"  {name}: " + ("reached" if why is None else f"not reached: {why}"))


def _show(checkout: "Path", as_json: bool) -> None:
    from flows.endings import read_notify_params
    from flows.run_state import last_nights

    params, nights = read_notify_params(checkout), last_nights(checkout, 1)
    told = nights[0].told if nights else None
    if as_json:
        print_json({"params": params, "told": told})
        return
    console = make_console()
    _print_channels(console, params)
    for line in told_lines(nights):
        _print(console, line)


def _print_channels(console: Console, params: "NotifyParams") -> None:
    if not params.variables():
        _print(console, "no channel: nobody is told how a night ends (params/notify.yaml)")
    for channel in params.channels:
        heard = channel.verdicts if channel.verdicts == "all" else ", ".join(channel.verdicts)
        _print(console, f"{channel.name}: {channel.kind}, hears of {heard}")
    if params.ping_variable:
        _print(console, f"ping: asks the URL in {params.ping_variable} at every verdict")


def told_lines(nights: "list[NightState]") -> list[str]:
    """Return a line on whom the last ending of these nights was told, and who missed it."""
    told = next((night.told for night in nights if night.told), None)
    if told is None:
        return []
    telling = told[-1]
    reached = [name for name, why in telling.channels.items() if why is None]
    missed = [f"{name} was not: {why}" for name, why in telling.channels.items() if why]
    verdict = telling.verdict.replace("_", " ")
    return [f"{verdict}: told to {'; '.join([', '.join(reached) or 'nobody', *missed])}"]


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
