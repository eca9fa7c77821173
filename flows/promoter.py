"""What a promoter needs of a checkout: the ledger, its lock and the policies."""

import os
import pwd
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from flows.environment import find_stores, open_checkout
from flows.servers import shares_prefect
from flows.workspace import STATE, WorkspacePaths
from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.ledger import Ledger, Link
from tasks.registry.lock import PromotionLock
from tasks.registry.params import Params, ReleaseParams
from tasks.registry.retention import RetentionDecision, prune, review
from tasks.registry.transactions import reconcile_and_log
from tasks.registry.versions import MODELS, RegistryStage
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError, GateError
from tasks.stage.params import load_params, read_yaml

_REFUSED = 3

REGISTRY_STAGES: tuple[RegistryStage, ...] = ("staging", "production")


@dataclass(frozen=True)
class Promoter:
    """One that decides about versions: where it writes, when it may, and by which policies."""

    ledger: Ledger
    lock: PromotionLock
    params: ReleaseParams
    downloads: Path


def make_promoter(checkout: Path, params_root: Path | None = None) -> Promoter:
    """A promoter of a checkout's stores; `params_root` is a workspace with params of its own."""
    stores = find_stores(checkout)
    file = (params_root or checkout) / "params" / "release.yaml"
    params: ReleaseParams = load_params(Params, [file]).release
    lock = PromotionLock(
        file=checkout / STATE / "promotion.lock",
        shared=shares_prefect(checkout),
        wait_seconds=params.wait_seconds,
    )
    ledger = Ledger(stores, Registry(stores))
    return Promoter(ledger, lock, params, checkout / STATE / "downloads")


@contextmanager
def deciding(root: Path) -> Iterator[Promoter]:
    """The promoter of the checkout at or above a folder, in its turn."""
    checkout = open_checkout(root)
    promoter = make_promoter(checkout)
    with promoter.lock.held():
        yield promoter


def review_all(promoter: Promoter, model: str | None) -> list[RetentionDecision]:
    """What retention says of every version of one model, or of both; nothing is written."""
    now = time.time_ns() // 1_000_000
    return [
        fate
        for name in _models(model)
        for fate in review(promoter.ledger, name, promoter.params.retention, now_ms=now)
    ]


def delete_old(promoter: Promoter, model: str | None, by: str | None) -> list[RetentionDecision]:
    """The same, once what goes is gone. Call it in the promoter's turn."""
    for name in _models(model):
        reconcile_and_log(promoter.ledger, name)
    fates = review_all(promoter, model)
    for fate in fates:
        if fate.goes:
            prune(promoter.ledger, fate, by=by or operating_user())
    return fates


def _models(name: str | None) -> list[ServedModel]:
    return [model for model in MODELS if name in (None, model)]


def print_ledger(console: Console, links: Sequence[Link]) -> None:
    """Print entries for people."""
    if not links:
        console.print("nothing was decided yet")
        return
    for link in links:
        entry = link.entry
        version = entry.model if entry.version is None else f"{entry.model} {entry.version}"
        what = entry.kind.replace("_", " ")
        if entry.awaits is not None:
            what += f", asks for {entry.awaits}"
        when = entry.time.removesuffix("+00:00").replace("T", " ")
        what += f" by {escape(entry.by)}"
        head = [f"{entry.number:>3}", when, f"[bold]{escape(version)}[/bold]", what]
        before, after = (side.get("production", "-") for side in (entry.before, entry.after))
        if before != after:
            head.append(f"production {before} -> {after}")
        if "despite" in entry.evidence:
            head.append(f"despite {entry.evidence['despite']}")
        console.print("  ".join(head))
        for reason in entry.reasons:
            console.print(Padding(escape(reason), (0, 0, 0, 5), expand=False))


def operating_user() -> str:
    """Who runs this process, as the system knows them, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def read_registry_stage(text: str) -> RegistryStage:
    """The stage that somebody named.

    Raises:
        ConfigError: there is none of this name.
    """
    for stage in REGISTRY_STAGES:
        if text == stage:
            return stage
    hint = f"; MLflow tells {text} from {text.lower()}" if text.lower() in REGISTRY_STAGES else ""
    raise ConfigError(
        f"{text!r} is no stage to move to; expected staging or production, in lower case{hint}",
        "say --to production",
    )


def rehearsal(checkout: Path, model: ServedModel, params: ReleaseParams) -> "partial[str]":
    """A call that asks a bundle its golden prompts, in a process of its own."""
    return partial(_rehearse, checkout, model, params)


def _rehearse(checkout: Path, model: ServedModel, params: ReleaseParams, bundle: Path) -> str:
    """How many golden prompts a bundle answers as it once did, in a sentence.

    Raises:
        ConfigError: it could not be asked.
        GateError: too many come out otherwise.
    """
    paths = WorkspacePaths.model_validate(read_yaml(checkout / "params" / "paths.yaml"))
    command = [sys.executable, "-m", "tasks.answering.rehearsal", "--bundle", str(bundle)]
    command += ["--model", model, "--store", str(checkout / paths.model_store)]
    command += ["--mismatch", str(params.golden_mismatch)]
    child = run_child(command, checkout)
    if child.code == 0:
        return next(line for line in reversed(child.lines) if "golden prompts" in line)
    told = child.last_lines
    if child.code == _REFUSED:
        raise GateError(told, "name another version with --to; this one no longer answers so")
    raise ConfigError(f"the old bundle can't be asked:\n{told}", "mend what these lines name")
