"""The intakes of a checkout and its workspaces, and one of them withdrawn wherever it lies."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from flows.promoter import Promoter
from flows.workspace import STATE, Workspace, night_lock
from tasks.ingestion.intake_files import intake_folders
from tasks.ingestion.withdrawal import (
    IntakeSummary,
    check_intake,
    list_intakes,
    no_change_error,
    restore_intake,
    withdraw_intake,
)
from tasks.records.withdrawals import withdrawn_intakes
from tasks.registry.ledger import Entry, Kind, Statement
from tasks.registry.promote import check_signature
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError


@dataclass(frozen=True)
class ListedIntake:
    """An intake, and the names of the checkout and the workspaces in which it lies."""

    intake: IntakeSummary
    workspaces: tuple[str, ...]


def all_workspaces(checkout: Path) -> list[Workspace]:
    """Return the checkout and its workspaces, as far as they are whole."""
    folders = sorted((checkout / STATE / "workspaces").glob("*/dvc.yaml"))
    return [Workspace(checkout, path, ()) for path in (checkout, *(x.parent for x in folders))]


def copied_workspaces(checkout: Path) -> list[Workspace]:
    """Return the workspaces of deep evaluations and of trials, whose rows are another one's."""
    state = checkout / STATE
    folders = [
        path.parent for depth in ("*/*", "*/*/*") for path in state.glob(f"{depth}/dvc.yaml")
    ]
    own = state / "workspaces"
    found = sorted(folder for folder in folders if not folder.is_relative_to(own))
    return [Workspace(checkout, folder, ()) for folder in found]


def raw_folder(workspace: Workspace) -> Path:
    """Return where the intakes of a workspace lie."""
    return workspace.path / workspace.paths().raw


def list_all(checkout: Path) -> list[ListedIntake]:
    """Return the intakes of a checkout and its workspaces, oldest first, each once."""
    found: dict[str, ListedIntake] = {}
    for workspace in all_workspaces(checkout):
        for item in list_intakes(raw_folder(workspace)):
            earlier = found.get(item.name, ListedIntake(item, ()))
            names = (*earlier.workspaces, workspace.name)
            found[item.name] = ListedIntake(earlier.intake, names)
    return [found[name] for name in sorted(found)]


@contextmanager
def no_nights(workspaces: Sequence[Workspace]) -> Iterator[None]:
    """Hold the locks of workspaces, so that no night reads what is changed meanwhile.

    Raises:
        ConfigError: a night runs in one of them.
    """
    with ExitStack() as stack:
        for workspace in workspaces:
            stack.enter_context(night_lock(workspace.lock))
        yield


def take_back(
    promoter: Promoter, checkout: Path, name: str, *, reason: str, by: str, undo: bool
) -> Entry:
    """Withdraw an intake wherever it lies, or make it current again; return the ledger's entry.

    Call it while holding the promoter's lock.

    Raises:
        ConfigError: no workspace has it, it is so already, or a night runs.
    """
    check_signature(by, reason)
    places = [x for x in all_workspaces(checkout) if _holds(x, name)]
    if not places:
        check_intake(raw_folder(Workspace(checkout, checkout, ())), name)
    with no_nights(places):
        changed = [x for x in places if (name in withdrawn_intakes(raw_folder(x))) == undo]
        if not changed:
            raise no_change_error(withdrawn_intakes(raw_folder(places[0])).get(name), name)
        kind: Kind = "restored" if undo else "withdrawn"
        statement = data_statement(kind, by, f"intake {name}: {reason}", {})
        entry, now = promoter.ledger.append(statement).entry, datetime.now(UTC)
        for place in changed:
            if undo:
                restore_intake(raw_folder(place), name)
            else:
                withdraw_intake(raw_folder(place), name, reason=reason, by=by, now=now)
            track_data(place)
        return entry


def _holds(workspace: Workspace, name: str) -> bool:
    return any(folder.name == name for folder in intake_folders(raw_folder(workspace)))


def data_statement(kind: Kind, by: str, reason: str, evidence: dict[str, str]) -> Statement:
    """Return a decision about data: it names no model and moves nothing."""
    return Statement(
        id=uuid4().hex,
        kind=kind,
        model=None,
        version=None,
        key="",
        by=by,
        reason=reason,
        evidence=evidence,
        before={},
        after={},
        awaits=None,
    )


def track_data(workspace: Workspace) -> None:
    """Let DVC track the raw folder as it is now, where it tracked it before.

    Raises:
        ConfigError: DVC refused.
    """
    raw = workspace.paths().raw
    if not (workspace.path / f"{raw}.dvc").exists():
        return
    child = run_child([sys.executable, "-m", "dvc", "--wait-for-lock", "add", raw], workspace.path)
    if child.code != 0:
        raise ConfigError(
            f"`dvc add {raw}` failed in {workspace.path}:\n{child.last_lines}",
            "mend what DVC names; the next night tracks the folder by itself",
        )
