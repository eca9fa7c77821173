"""What a promoter needs of a checkout: the ledger, its lock and the policies."""

import os
import pwd
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows import EXIT_REFUSED
from flows.environment import find_stores
from flows.servers import shares_prefect
from flows.workspace import STATE, WorkspacePaths
from tasks.promotion.params import Params as PromotionFile
from tasks.promotion.params import PromotionParams
from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.ledger import Entry, Ledger
from tasks.registry.lock import PromotionLock
from tasks.registry.params import Params, ReleaseParams
from tasks.registry.promote import roll_back
from tasks.registry.retention import RetentionDecision, prune, review
from tasks.registry.transactions import reconcile_and_log
from tasks.registry.versions import MODELS
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError, GateError
from tasks.stage.params import load_params, read_yaml


@dataclass(frozen=True)
class Promoter:
    """One that decides about versions: where it writes, when it may, and by which policies.

    `anchor_nights` is for how long a champion may be what candidates are held against.
    """

    ledger: Ledger
    lock: PromotionLock
    params: ReleaseParams
    downloads: Path
    anchor_nights: int


def make_promoter(checkout: Path, params_root: Path | None = None) -> Promoter:
    """Return a promoter of a checkout's stores; `params_root` is a workspace with own params."""
    stores = find_stores(checkout)
    folder = (params_root or checkout) / "params"
    params: ReleaseParams = load_params(Params, [folder / "release.yaml"]).release
    rules: PromotionParams = load_params(PromotionFile, [folder / "promotion.yaml"]).promotion
    lock = PromotionLock(
        file=checkout / STATE / "promotion.lock",
        shared=shares_prefect(checkout),
        wait_seconds=params.wait_seconds,
    )
    ledger = Ledger(stores, Registry(stores))
    return Promoter(ledger, lock, params, checkout / STATE / "downloads", rules.anchor_nights)


@contextmanager
def deciding(checkout: Path) -> Iterator[Promoter]:
    """Hold the lock of a checkout, and yield its promoter."""
    promoter = make_promoter(checkout)
    with promoter.lock.held():
        yield promoter


def bring_back(
    checkout: Path, model: ServedModel, number: int | None, *, by: str, reason: str
) -> Entry:
    """Let `production` name a version again once that answers as it did; return the entry.

    `number` is the version, None for the one that was there last.

    Raises:
        ConfigError: there is no way back, no reason, or production is another one by now.
        DataError: the old bundle is not as it was registered.
        GateError: it does not answer as recorded.
    """
    leaving = make_promoter(checkout).ledger.registry.aliases(model).get("production")
    with deciding(checkout) as promoter:
        return roll_back(
            promoter.ledger,
            model,
            number,
            by=by,
            reason=reason,
            leaving=leaving,
            downloads=promoter.downloads,
            rehearse=partial(rehearse, checkout, model, promoter.params),
        )


def rehearse(checkout: Path, model: ServedModel, params: ReleaseParams, bundle: Path) -> str:
    """Return in a sentence how many golden prompts a bundle answers as it once did.

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
    if child.code == EXIT_REFUSED:
        raise GateError(told, "name another version with --to; this one no longer answers so")
    raise ConfigError(f"the old bundle can't be asked:\n{told}", "mend what these lines name")


def review_all(promoter: Promoter, model: str | None) -> list[RetentionDecision]:
    """Return what retention says of every version of one model, or of both; write nothing."""
    now = time.time_ns() // 1_000_000
    return [
        one
        for name in _models(model)
        for one in review(
            promoter.ledger,
            name,
            promoter.params.retention,
            anchor_nights=promoter.anchor_nights,
            now_ms=now,
        )
    ]


def delete_old(promoter: Promoter, model: str | None, by: str | None) -> list[RetentionDecision]:
    """Delete what retention lets go, and return all decisions. Call it while holding the lock."""
    for name in _models(model):
        reconcile_and_log(promoter.ledger, name)
    decisions = review_all(promoter, model)
    for one in decisions:
        if one.goes:
            prune(promoter.ledger, one, by=by or operating_user())
    return decisions


def _models(name: str | None) -> list[ServedModel]:
    return [model for model in MODELS if name in (None, model)]


def operating_user() -> str:
    """Return who runs this process, as the system says, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
