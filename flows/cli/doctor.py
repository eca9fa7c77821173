"""`nightloom doctor`: check what a night needs of the machine, with a remedy for each."""

import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows import EXIT_FAILED
from flows.cli.night_checks import Finding, notification, schedule, verdict_age
from flows.cli.options import HERE, Json, Root, checkout_at, print_json
from flows.console import make_console
from flows.graph import cache_folder, stage_names
from tasks.stage.errors import NightloomError, without_password

if TYPE_CHECKING:
    from flows.limits import Room

_BLOCK = 512  # what st_blocks counts in, on every system


@dataclass(frozen=True)
class Place:
    """Something that takes space: what people call it, and how much it takes."""

    name: str
    gigabytes: float


def scratch_folders(checkout: Path) -> str:
    """Return where checkpoints and memos lie, from the checkout, as people read it."""
    return " and ".join(_scratch(checkout))


def taken(checkout: Path) -> list[Place]:
    """Return what takes the checkout's disk, the most first; a file with two names counts once.

    Raises:
        ConfigError: DVC can't read the checkout.
    """
    from flows.workspace import STATE

    state = checkout / STATE
    places = {
        "checkpoints and memos": [p for name in _scratch(checkout) for p in checkout.glob(name)],
        "DVC's cache": [cache_folder(checkout)],
        "workspaces": [state / "workspaces"],
        "versions and reports": [state / "artifacts"],
        "base models": [state / "models"],
    }
    seen: set[tuple[int, int]] = set()
    found = [Place(name, _bytes(folders, seen) / 1e9) for name, folders in places.items()]
    return sorted(found, key=lambda place: -place.gigabytes)


def _scratch(checkout: Path) -> tuple[str, str]:
    """Return patterns of the checkout's scratch folder and of its workspaces' ones."""
    from flows.workspace import STATE, Workspace

    scratch = Workspace(checkout, checkout, ()).paths().scratch
    return scratch, f"{STATE}/workspaces/*/{scratch}"


def _bytes(folders: Iterable[Path], seen: set[tuple[int, int]]) -> int:
    """Return the size of what lies below folders and is not in `seen`, and add it there."""
    total = 0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                try:
                    found = Path(place, name).lstat()
                except FileNotFoundError:  # a night that runs takes its files away
                    continue
                if (found.st_dev, found.st_ino) not in seen:
                    seen.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * _BLOCK
    return total


_DISK_GB = 8.0

_MEMORY_GB = 6.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; the remedy is empty where it is well."""

    name: str
    passed: bool
    found: str
    remedy: str


def doctor(
    root: Root = HERE,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Close stores, logs and data to other users, and mend no more."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check versions, stores, disk, device and nights to come, and say how to mend each."""
    with checkout_at(root, as_json) as checkout:
        if fix:
            from flows.permissions import close_places

            closed = ", ".join(map(str, close_places(checkout))) or "nothing was open"
            make_console(to_stderr=as_json).print(f"closed to other users: {closed}")
        findings = run_checks(checkout)
    if as_json:
        print_json(findings)
    else:
        print_checks(make_console(), findings)
    raise SystemExit(0 if all(finding.passed for finding in findings) else EXIT_FAILED)


def run_checks(checkout: Path) -> list[Check]:
    """Return every finding, the good ones too."""
    from flows.cli.store_checks import look_at_stores

    checks: tuple[Callable[[Path], Check], ...] = (
        _python, _packages, _graph, _disk, _memory, _permissions, _tracking, _prefect, _device,
    )  # fmt: skip
    nights = {"notification": notification, "schedule": schedule, "last verdict": verdict_age}
    return [
        *(check(checkout) for check in checks),
        *(_of_finding(name, look(checkout)) for name, look in nights.items()),
        *(_of_finding(name, finding) for name, finding in look_at_stores(checkout)),
    ]


def _of_finding(name: str, finding: Finding) -> Check:
    return Check(name, not finding.remedy, finding.found, finding.remedy)


def print_checks(console: Console, findings: list[Check]) -> None:
    """Print them for people."""
    for finding in findings:
        mark = "[green]ok[/]  " if finding.passed else "[red]bad[/] "
        console.print(f"{mark} {finding.name}: {finding.found}", highlight=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"       what to do: {finding.remedy}", highlight=False, soft_wrap=True)


def _check(name: str, passed: bool, found: str, remedy: str) -> Check:
    return Check(name, passed, found, "" if passed else remedy)


def _python(checkout: Path) -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return _check("python", sys.version_info[:2] == (3, 11), found, "make .venv with Python 3.11")


def _packages(checkout: Path) -> Check:
    """Check that what is installed is what pyproject.toml asks for."""
    from packaging.requirements import Requirement

    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bad = []
    for text in project["dependencies"]:
        wanted = Requirement(text)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "missing"
        if found == "missing" or not wanted.specifier.contains(found, prereleases=True):
            bad.append(f"{wanted.name} {found}, expected {wanted.specifier or 'any'}")
    count = len(project["dependencies"])
    remedy = "install the lock file again: touch requirements.lock, then make setup"
    return _check("packages", not bad, "; ".join(bad) or f"all {count} as asked for", remedy)


def _graph(checkout: Path) -> Check:
    try:
        return Check("dvc", True, f"{len(stage_names(checkout))} stages", "")
    except NightloomError as error:
        return Check("dvc", False, error.message, error.remedy)


def _disk(checkout: Path) -> Check:
    from tasks.stage.command import room

    free = shutil.disk_usage(checkout).free / 1e9
    try:
        places, took = taken(checkout), _last_night(checkout).disk / 1e9
    except NightloomError as error:
        return Check("disk", False, error.message, error.remedy)
    told = ", ".join(f"{place.name} {place.gigabytes:.1f} GB" for place in places)
    needed, by = (took, "by the last night") if took else (_DISK_GB, "by the default model")
    found = f"{free:.0f} GB free, {needed:.1f} needed {by}; taken: {told}"
    remedy = (
        f"{room(scratch_folders(checkout))}. `nightloom prune --data` shows what none of them needs"
    )
    return _check("disk", free >= needed, found, remedy)


def _memory(checkout: Path) -> Check:
    import psutil

    total, took = psutil.virtual_memory().total / 1e9, _last_night(checkout).memory / 1e9
    needed, by = (took, "by the last night") if took else (_MEMORY_GB, "by the default model")
    found = f"{total:.0f} GB, {needed:.1f} needed {by}"
    return _check("memory", total >= needed, found, "choose a smaller base model or student")


def _last_night(checkout: Path) -> "Room":
    """Return what each stage took when it last ran in the checkout; nothing where none has."""
    from flows.limits import needed

    return needed(checkout, "checkout", stage_names(checkout))


def _permissions(checkout: Path) -> Check:
    """Check that no other user of the machine can read stores, logs, rows or models."""
    from flows.permissions import open_places

    try:
        places = open_places(checkout)
    except NightloomError as error:
        return Check("permissions", False, error.message, error.remedy)
    named = ", ".join(map(str, places))
    found = f"other users may enter or read {named}" if places else "closed to other users"
    return _check("permissions", not places, found, "`nightloom doctor --fix` closes them")


def _tracking(checkout: Path) -> Check:
    """Check that the MLflow store opens."""
    from flows.environment import find_stores
    from tasks.orchestration.tracking import Tracker

    try:
        stores = find_stores(checkout)
    except NightloomError as error:
        return Check("mlflow", False, error.message, error.remedy)
    try:
        Tracker(stores)
    except NightloomError as error:
        return Check("mlflow", False, error.message, error.remedy)
    except Exception as error:  # noqa: BLE001  a store fails in as many ways as there are stores
        return Check(
            "mlflow",
            False,
            without_password(f"{stores.tracking_uri}: {error}"),
            "check MLFLOW_TRACKING_URI, or unset it to use the store in .nightloom/",
        )
    return Check("mlflow", True, without_password(stores.tracking_uri), "")


def _prefect(checkout: Path) -> Check:
    """Check that Prefect's API answers; if no server runs, one is started and its store made."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    where = url or "embedded (no `nightloom up`)"
    try:
        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
    except Exception as found:  # noqa: BLE001  a server fails to start in as many ways
        error = found
    remedy = (
        "nightloom down, then nightloom up; or unset PREFECT_API_URL to do without a server"
        if url
        else "look into .nightloom/prefect, which holds runs and questions; moved aside, and kept, "
        "it makes place for a new store"
    )
    return _check("prefect", error is None, f"{where}: {error}" if error else where, remedy)


def _device(checkout: Path) -> Check:
    """Check what torch computes on and is slow at, in a child: no flow imports torch."""
    from tasks.services.processes import run_child
    from tasks.stage.params import read_yaml

    dtype = str(read_yaml(checkout / "params" / "finetuning.yaml").get("dtype"))
    command = [sys.executable, "-m", "tasks.models.hardware", "--dtype", dtype]
    child = run_child(command, checkout)
    found = child.lines[-1] if child.lines else "nothing"
    return _check("device", child.code == 0, found, "install the torch that pyproject.toml pins")
