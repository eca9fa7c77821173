"""Where things stand: the last nights, the one that runs now, the aliases and the servers."""

from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from flows.environment import find_stores
from flows.lock import holder
from flows.nights import Night, last_nights
from flows.services import Services, read_services
from flows.workspace import STATE
from tasks.orchestration.promotion import all_aliases
from tasks.orchestration.registry import Registry

_SHOWN = 5


class Standing(BaseModel):
    """What `nightloom status` reports; `running` is the pid of a night, by workspace."""

    nights: list[Night]
    running: dict[str, int]
    aliases: dict[str, dict[str, int]]
    services: Services | None


def read_standing(checkout: Path) -> Standing:
    """Where things stand now."""
    return Standing(
        nights=last_nights(checkout, _SHOWN),
        running=_running(checkout),
        aliases=all_aliases(Registry(find_stores(checkout))),
        services=read_services(checkout),
    )


def print_standing(console: Console, standing: Standing) -> None:
    """Print it for people."""
    if not standing.nights:
        console.print("no night has run here yet: nightloom run")
    table = Table(title="last nights", box=None, title_justify="left")
    for heading in ("night", "verdict", "stages executed", "adapter", "student"):
        table.add_column(heading)
    for night in standing.nights:
        executed = sum(entry.state == "executed" for entry in night.stages)
        numbers = [str(night.versions[name] or "-") for name in ("adapter", "student")]
        table.add_row(night.night, _verdict(night, standing.running), str(executed), *numbers)
    if standing.nights:
        console.print(table)
    for model, aliases in standing.aliases.items():
        shown = ", ".join(f"{name} -> {number}" for name, number in aliases.items())
        console.print(f"{model}: {shown or 'nothing registered'}", highlight=False)
    services = standing.services
    where = f"Prefect {services.prefect}, MLflow {services.mlflow}" if services else "down"
    console.print(f"servers: {where}", highlight=False)


def _verdict(night: Night, running: dict[str, int]) -> str:
    """The verdict of a night; one without any runs, or was killed."""
    if night.verdict is not None:
        return night.verdict
    alive = night.pid in running.values()
    return f"running: {night.step} (process {night.pid})" if alive else f"killed in {night.step}"


def _running(checkout: Path) -> dict[str, int]:
    locks = {"checkout": checkout / STATE / "night.lock"}
    for path in sorted((checkout / STATE / "workspaces").glob(f"*/{STATE}/night.lock")):
        locks[path.parent.parent.name] = path
    holders = {name: holder(path) for name, path in locks.items()}
    return {name: pid for name, pid in holders.items() if pid is not None}
