"""What a promoter needs of a checkout: the ledger, its lock and the policies."""

import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.environment import find_stores
from flows.servers import shares_prefect
from flows.workspace import STATE
from tasks.promotion.params import Params as PromotionFile
from tasks.promotion.params import PromotionParams
from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.ledger import Ledger
from tasks.registry.lock import PromotionLock
from tasks.registry.params import Params, ReleaseParams
from tasks.registry.retention import RetentionDecision, prune, review
from tasks.registry.transactions import reconcile_and_log
from tasks.registry.versions import MODELS
from tasks.stage.params import load_params


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
