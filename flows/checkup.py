"""What a night needs of the machine, looked at one by one, with a remedy for each."""

import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from rich.console import Console

from flows.disk import scratch_folders, taken
from flows.environment import find_stores
from flows.graph import stage_names
from tasks.orchestration.process import run_child
from tasks.stage.command import room
from tasks.stage.errors import NightloomError
from tasks.stage.params import read_yaml

_DISK_GB = 8.0
_MEMORY_GB = 6.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; the remedy is empty where it is well."""

    name: str
    passed: bool
    found: str
    remedy: str

    def as_row(self) -> dict[str, str | bool]:
        """The finding as a JSON object."""
        return asdict(self)


def examine(checkout: Path) -> list[Finding]:
    """Every finding, the good ones too."""
    checks: tuple[Callable[[Path], Finding], ...] = (
        _python, _packages, _graph, _disk, _memory, _tracking, _prefect, _device,
    )  # fmt: skip
    return [check(checkout) for check in checks]


def print_findings(console: Console, findings: list[Finding]) -> None:
    """Print them for people."""
    for finding in findings:
        mark = "[green]ok[/]  " if finding.passed else "[red]bad[/] "
        console.print(f"{mark} {finding.name}: {finding.found}", highlight=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"       what to do: {finding.remedy}", highlight=False, soft_wrap=True)


def _finding(name: str, passed: bool, found: str, remedy: str) -> Finding:
    return Finding(name, passed, found, "" if passed else remedy)


def _python(checkout: Path) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return _finding("python", sys.version_info[:2] == (3, 11), found, "make .venv with Python 3.11")


def _packages(checkout: Path) -> Finding:
    """Whether what is installed is what pyproject.toml asks for."""
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
    return _finding("packages", not bad, "; ".join(bad) or f"all {count} as asked for", remedy)


def _graph(checkout: Path) -> Finding:
    try:
        return Finding("dvc", True, f"{len(stage_names(checkout))} stages", "")
    except NightloomError as error:
        return Finding("dvc", False, error.message, error.remedy)


def _disk(checkout: Path) -> Finding:
    free = shutil.disk_usage(checkout).free / 1e9
    try:
        places = taken(checkout)
    except NightloomError as error:
        return Finding("disk", False, error.message, error.remedy)
    told = ", ".join(f"{place.name} {place.gigabytes:.1f} GB" for place in places)
    found = f"{free:.0f} GB free, {_DISK_GB:.0f} needed; taken: {told}"
    return _finding("disk", free >= _DISK_GB, found, room(scratch_folders(checkout)))


def _memory(checkout: Path) -> Finding:
    total = psutil.virtual_memory().total / 1e9
    found = f"{total:.0f} GB, {_MEMORY_GB:.0f} needed by the default model"
    return _finding("memory", total >= _MEMORY_GB, found, "choose a smaller base model or student")


def _tracking(checkout: Path) -> Finding:
    """Whether the MLflow store opens."""
    from tasks.orchestration.tracking import Tracker

    try:
        stores = find_stores(checkout)
    except NightloomError as error:
        return Finding("mlflow", False, error.message, error.remedy)
    try:
        Tracker(stores)
    except Exception as error:  # noqa: BLE001  a store fails in as many ways as there are stores
        return Finding(
            "mlflow",
            False,
            f"{stores.tracking_uri}: {error}",
            "check MLFLOW_TRACKING_URI, or unset it to use the store in .nightloom/",
        )
    return Finding("mlflow", True, stores.tracking_uri, "")


def _prefect(checkout: Path) -> Finding:
    """Whether Prefect's API answers; where no server runs, one is started and its store made."""
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
    return _finding("prefect", error is None, f"{where}: {error}" if error else where, remedy)


def _device(checkout: Path) -> Finding:
    """What torch computes on and is slow at; asked in a child, so that no flow imports torch."""
    lines: list[str] = []
    dtype = str(read_yaml(checkout / "params" / "finetuning.yaml").get("dtype"))
    command = [sys.executable, "-m", "tasks.lm.hardware", "--dtype", dtype]
    code = run_child(command, checkout, lines.append)
    found = lines[-1] if lines else "nothing"
    return _finding("device", code == 0, found, "install the torch that pyproject.toml pins")
