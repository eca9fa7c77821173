"""What nights left behind and nothing needs any more: found, shown, then deleted."""

import os
import shutil
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.environment import find_stores
from flows.intakes import all_workspaces, copied_workspaces, no_nights
from flows.kept_data import UnneededData, unneeded_data
from flows.workspace import STATE, Workspace
from tasks.orchestration.kept_runs import KeptRuns
from tasks.orchestration.retention import Params, RetentionParams
from tasks.registry.client import Registry
from tasks.registry.versions import MODELS, model_name
from tasks.stage.params import load_params

_DAY = 86_400.0
# What a night renews in its workspace.
_MARKS = (f"{STATE}/night.lock", "dvc.lock", "params")


@dataclass(frozen=True)
class Leaving:
    """One kind of what may go: its files and folders, and why; `begun_anew` are logs that go on.

    `freed` is the disk that it takes, in megabytes.
    """

    kind: str
    why: str
    paths: tuple[Path, ...]
    begun_anew: tuple[Path, ...]
    freed: float


def _leaving(
    kind: str, why: str, paths: Iterable[Path], begun_anew: Iterable[Path] = ()
) -> Leaving:
    gone, emptied = tuple(paths), tuple(begun_anew)
    files = [file for path in (*gone, *emptied) for file in _files(path)]
    return Leaving(kind, why, gone, emptied, sum(file.lstat().st_size for file in files) / 1e6)


@dataclass(frozen=True)
class Review:
    """All that may go, and what is known of the data."""

    leavings: tuple[Leaving, ...]
    data: UnneededData


def read_retention(checkout: Path) -> RetentionParams:
    """Return `params/retention.yaml` of a checkout."""
    params: RetentionParams = load_params(
        Params, [checkout / "params" / "retention.yaml"]
    ).retention
    return params


def review_leavings(checkout: Path) -> Review:
    """Return what params let go and nothing needs; delete nothing.

    Raises:
        ConfigError: MLflow, git or DVC, which say what is needed, do not answer.
    """
    params, stores = read_retention(checkout), find_stores(checkout)
    registry = Registry(stores)
    versions = [version.run_id for model in MODELS for version in registry.versions(model)]
    served = {
        f"{model_name(model)}/{number}"
        for model in MODELS
        for number in registry.aliases(model).values()
    }
    runs = KeptRuns(stores, nights=params.nights, versions=versions)
    data = unneeded_data(checkout, runs.locks())
    why = f"not of the last {params.nights} nights, of a version, a workspace or a branch"
    of_nights = (
        _leaving("data in DVC's cache", why, (*data.objects, *data.runs)),
        _leaving("reports in MLflow", why, runs.old_files()),
    )
    return Review((*of_nights, *_unused(checkout, params, served), *_old(checkout, params)), data)


def _unused(checkout: Path, params: RetentionParams, served: Container[str]) -> Iterator[Leaving]:
    """Yield what is made again when it is needed, and was not for long; `served` are versions."""
    days = params.workspace_days
    workspaces = [
        path
        for path in sorted((checkout / STATE / "workspaces").glob("*/"))
        if all(_age_days(mark) >= days for name in _MARKS if (mark := path / name).exists())
    ]
    yield _leaving("workspaces", f"no night in it for {days} days", workspaces)
    days = params.scratch_days
    scratch = [x.path / x.paths().scratch for x in all_workspaces(checkout)]
    made = [path for folder in scratch for path in folder.glob("*/*")]
    yield _leaving(
        "checkpoints and memos", f"not used for {days} days", _older(made, days, used=True)
    )
    days = params.download_days
    found = (checkout / STATE).glob("downloads/*/*")
    unnamed = [path for path in found if f"{path.parent.name}/{path.name}" not in served]
    yield _leaving(
        "downloads", f"not read for {days} days, and no alias names them",
        _older(unnamed, days, used=True),
    )  # fmt: skip


def _old(checkout: Path, params: RetentionParams) -> Iterator[Leaving]:
    """Yield the records and logs of nights that are long over, and logs that grew long."""
    state, days = checkout / STATE, params.record_days
    records = _older(state.glob("nights/[!.]*.json"), days)
    yield _leaving("records of nights", f"older than {days} days", records)
    copies = _older(state.glob("before-upgrade/*.db"), days)
    yield _leaving("databases as before an upgrade", f"older than {days} days", copies)
    days, most = params.log_days, params.log_megabytes
    old = _older(state.glob("logs/*"), days)
    long = [path for path in state.glob("logs/*.log") if path.stat().st_size > most * 1e6]
    yield _leaving(
        "logs", f"older than {days} days, or longer than {most:g} MB", old,
        [path for path in long if path not in old],
    )  # fmt: skip


def delete_leavings(checkout: Path, *, own: Workspace | None = None) -> Review:
    """Delete what may go and return what it was. `own` is the workspace whose lock is held.

    Raises:
        ConfigError: a night runs, or what is needed can't be known; then nothing goes.
    """
    every = [*all_workspaces(checkout), *copied_workspaces(checkout)]
    with no_nights([one for one in every if own is None or one.path != own.path]):
        found = review_leavings(checkout)
        for leaving in found.leavings:
            for path in leaving.paths:
                if own is None or path != own.path:
                    _delete(path, checkout)
            for path in leaving.begun_anew:
                _begin_anew(path)
    return found


def _delete(path: Path, checkout: Path) -> None:
    """Delete a file or folder of the checkout; what a link leads to elsewhere stays."""
    homes = (checkout, checkout / STATE, checkout / "data")
    place = path.parent.resolve() / path.name
    if not any(place.is_relative_to(home.resolve()) for home in homes):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _begin_anew(log: Path) -> None:
    """Keep a log as NAME.1 and empty it; whoever appends to it goes on doing so."""
    if log.exists():
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def _older(paths: Iterable[Path], days: int, *, used: bool = False) -> list[Path]:
    """Return files and folders all of which is older; `used`: and was not read since either."""
    return [
        path
        for path in sorted(paths)
        if all(_age_days(file, used=used) >= days for file in _files(path))
    ]


def _age_days(path: Path, *, used: bool = False) -> float:
    found = path.lstat()
    last = max(found.st_mtime, found.st_atime) if used else found.st_mtime
    return (time.time() - last) / _DAY


def _files(path: Path) -> list[Path]:
    if path.is_dir() and not path.is_symlink():
        return [file for file in path.rglob("*") if not file.is_dir()]
    return [path]
