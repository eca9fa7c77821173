"""`nightloom status`: the last nights, the one that runs now, aliases, test records, servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from flows.cli.notify import told_lines
from flows.cli.options import HERE, Json, Root, checkout_at, print_json
from flows.console import make_console
from tasks.records.schema import ServedModel
from tasks.registry.versions import MODELS

if TYPE_CHECKING:
    from flows.run_state import NightState
    from flows.servers import Services
    from tasks.registry.ledger import Ledger
    from tasks.scoring.record_use import RecordUse
    from tasks.services.stores import Stores

_SHOWN = 5


@dataclass(frozen=True)
class Status:
    """What `nightloom status` reports; `running` is the pid of a night, by workspace.

    `open` are decisions that were cut short, or that a person has not answered yet. `record_use` is
    how many decisions the test records of the last one have taken part in, None before any. `pages`
    are what MLflow shows of the nights, where a server holds the store: title -> address. `silence`
    says that there was no verdict for too long, where something checks it, and who was told.
    """

    nights: "list[NightState]"
    running: dict[str, int]
    aliases: dict[str, dict[str, int]]
    open: list[str]
    record_use: "RecordUse | None"
    services: "Services | None"
    pages: dict[str, str]
    silence: str | None


def status(root: Root = HERE, as_json: Json = False) -> None:
    """Show the last nights, the night that runs now, the aliases, the use of the test records and
    the servers.
    """
    with checkout_at(root, as_json) as checkout:
        status = read_status(checkout)
    if as_json:
        print_json(status)
    else:
        print_status(make_console(), status)


def read_status(checkout: Path) -> Status:
    """Return where things stand now."""
    from flows.environment import find_stores
    from flows.run_state import last_nights
    from flows.servers import Services
    from flows.watch import told_silence
    from flows.workspace import STATE, holders
    from tasks.registry.client import Registry
    from tasks.registry.ledger import Ledger
    from tasks.registry.promote import all_aliases
    from tasks.registry.record_use import last_use

    stores = find_stores(checkout)
    registry = Registry(stores)
    ledger = Ledger(stores, registry)
    nights = last_nights(checkout, _SHOWN)
    return Status(
        nights=nights,
        running=holders(checkout),
        aliases=all_aliases(registry),
        open=_open_decisions(ledger),
        record_use=last_use(ledger, checkout / STATE / "downloads"),
        services=Services.read(checkout),
        pages=mlflow_links(stores, nights),
        silence=told_silence(checkout),
    )


def mlflow_links(stores: "Stores", nights: "Sequence[NightState]") -> dict[str, str]:
    """Return title -> address of MLflow's pages of nights; none where no server is up.

    The last two nights are laid side by side; the table of all has the columns that tell them
    apart.
    """
    from tasks.orchestration.mlflow_pages import comparison_page, nights_page, run_page
    from tasks.orchestration.tracking import Tracker
    from tasks.services.stores import RunRef

    tracker = Tracker(stores)
    runs = [night.mlflow_run for night in nights if night.mlflow_run is not None]
    pages = {"nights": nights_page(tracker.experiment)}
    if runs:
        pages["last night"] = run_page(RunRef(tracker.experiment, runs[0]))
    if len(runs) > 1:
        pages["last two nights"] = comparison_page(tracker.experiment, runs[1::-1])
    links = {title: tracker.link(page) for title, page in pages.items()}
    return {title: link for title, link in links.items() if link is not None}


def print_status(console: Console, status: Status) -> None:
    """Print it for people."""
    if not status.nights:
        console.print("no night has run here yet: nightloom run")
    table = Table(title="last nights", box=None, title_justify="left")
    for heading in ("night", "verdict", "stages executed", "adapter", "student"):
        table.add_column(heading)
    for night in status.nights:
        executed = sum(entry.state == "executed" for entry in night.stages)
        models = [_model(night, model) for model in MODELS]
        table.add_row(night.night, _verdict(night), str(executed), *models)
    if status.nights:
        console.print(table)
    again = [f"{one.night} was run again as {one.again}" for one in status.nights if one.again]
    for line in (*again, *told_lines(status.nights), status.silence):
        if line is not None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    for model, aliases in status.aliases.items():
        shown = ", ".join(f"{name} -> {number}" for name, number in aliases.items())
        console.print(f"{model}: {shown or 'nothing registered'}", highlight=False)
    for text in status.open:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    if status.record_use is not None:
        console.print(status.record_use.told, highlight=False, soft_wrap=True)
    services = status.services
    where = f"Prefect {services.prefect}, MLflow {services.mlflow}" if services else "down"
    console.print(f"servers: {where}", highlight=False)
    print_links(console, status.pages)


def print_links(console: Console, pages: Mapping[str, str]) -> None:
    """Print where MLflow shows the nights, an address a line, whole so that it can be clicked."""
    for title, link in pages.items():
        console.print(f"  {title}: {link}", highlight=False, markup=False, soft_wrap=True)


def _open_decisions(ledger: "Ledger") -> list[str]:
    """Return a sentence on each decision that was begun about a version and is not done."""
    from tasks.registry.approval import open_requests
    from tasks.registry.transactions import pending_intent

    found = []
    for model in MODELS:
        intent = pending_intent(ledger.registry, model)
        if intent is not None:
            found.append(
                f"{model}: {intent.kind}, version {intent.version}, by {intent.by}, is being "
                "carried out, or was cut short: then the next decision finishes it first"
            )
        found += [
            f"{model}: version {entry.version} awaits approval for {entry.awaits} since "
            f"{entry.time}"
            for entry in open_requests(ledger, model)
        ]
    return found


def _verdict(night: "NightState") -> str:
    """Return the verdict of a night, or what it does now."""
    if night.verdict is None:
        return f"running: {night.step} (process {night.pid})"
    where = f" in {night.step}" if night.verdict == "crashed" else ""
    return f"{night.told_verdict}{where}"


def _model(night: "NightState", model: ServedModel) -> str:
    """Return a model's version of a night, and what became of it."""
    number = night.versions[model]
    if number is None:
        return "-"
    found = night.models.get(model)
    return str(number) if found is None else f"{number}: {found.headline}"
