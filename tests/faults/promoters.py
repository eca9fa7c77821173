"""Promoters as processes, killed as the kernel would between any two calls of the registry.

Each is a fork of a server that has imported MLflow and opened no store. The counting lives here:
it wraps MLflow's client, and nothing in the code that is tested knows of it.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store
import mlflow.tracking
from sqlalchemy.orm import configure_mappers

from tasks.registry import client as uploads
from tasks.registry.approval import ApprovalResponse, open_requests, read_request, settle
from tasks.registry.promote import roll_back
from tasks.registry.retention import prune, review
from tasks.registry.transactions import reconcile
from tests.builders.registry import PARAMS, Shop, policies

configure_mappers()  # once for all forks, as the imports are
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.promoters"])
_FAR = 10**12
APPROVING = policies("automatic", "approval")


def release(shop: Shop, text: str) -> None:
    """A bundle's release, up to its verdict."""
    shop.release(text)


def first_night(shop: Shop) -> None:
    """A night's release, up to its verdict."""
    release(shop, "new")


def promotion(shop: Shop) -> None:
    """A promotion by hand of the version in staging."""
    shop.promote()


def rollback(shop: Shop) -> None:
    """A rollback to the version before."""
    leaving = shop.aliases().get("production")
    with shop.lock.held():
        roll_back(
            shop.ledger, "adapter", None, by="ann", reason="it answers badly", leaving=leaving,
            downloads=shop.downloads, rehearse=lambda bundle: "asked",
        )  # fmt: skip


def approval(shop: Shop) -> None:
    """The answer to the one question that is open."""
    [entry] = open_requests(shop.ledger, "adapter") or [None]
    if entry is None:
        with shop.lock.held():
            reconcile(shop.ledger, "adapter")
        return
    link = shop.ledger.find(entry.id)
    assert link is not None
    with shop.lock.held():
        question = read_request(shop.ledger, link.sha256)
        answer = ApprovalResponse("approve", "ann", "good answers")
        settle(shop.ledger, question, answer, APPROVING, shop.downloads)


def pruning(shop: Shop) -> None:
    """Every version that nothing needs deleted."""
    retention = PARAMS.retention.model_copy(
        update={"archived": 0, "days": 0, "rollback_targets": 1}
    )
    with shop.lock.held():
        reconcile(shop.ledger, "adapter")
        now = time.time_ns() // 1_000_000
        for fate in review(shop.ledger, "adapter", retention, anchor_nights=1, now_ms=now):
            if fate.goes:
                prune(shop.ledger, fate, by="ann")


STEPS: dict[str, Callable[[Shop], None]] = {
    step.__name__: step for step in (first_night, promotion, rollback, approval, pruning)
}


def start(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process that does some work in a store."""
    child = _CONTEXT.Process(target=work, args=arguments)
    child.start()
    return child


def count_calls(root: Path, step: str) -> int:
    """How many things a step asks of MLflow, done to its end."""
    made = _CONTEXT.Value("i", 0)
    child = start(_do, root, step, _FAR, made)
    child.join()
    assert child.exitcode == 0
    return int(made.value)


def run_killed(root: Path, step: str, call: int) -> bool:
    """Whether a step was killed before its `call`-th call, which it came to."""
    child = start(_do, root, step, call, None)
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def run_killed_after(root: Path, step: str, seconds: float) -> bool:
    """Whether a step was killed so long after its start, wherever it was: in a call, even."""
    begun = _CONTEXT.Event()
    child = start(_do, root, step, _FAR, None, begun)
    begun.wait()
    time.sleep(seconds)
    child.kill()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def promote_in_turn(root: Path, numbers: list[int], told: "Queue[list[str]]") -> None:
    """Promote versions by hand, one after the other; tell the ids of what was decided."""
    shop = Shop(root)
    entries = [shop.promote(number) for number in numbers]
    told.put([entry.id for entry in entries if entry is not None])


def release_in_turn(root: Path, texts: list[str], told: "Queue[list[str]]") -> None:
    """Release bundles, one after the other."""
    shop = Shop(root)
    for text in texts:
        shop.release(text)
    told.put(texts)


def race(work: Callable[..., None], root: Path, *loads: list[Any]) -> list[list[str]]:
    """What processes that worked at the same time told, each with a load of its own."""
    told: Queue[list[str]] = _CONTEXT.Queue()
    children = [start(work, root, load, told) for load in loads]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * len(children)
    return [told.get() for _ in children]


def _do(root: Path, step: str, call: int, made: Any, begun: Any = None) -> None:
    counts = _kill_before(call)
    if begun is not None:
        begun.set()
    STEPS[step](Shop(root))
    if made is not None:
        made.value = counts()


def _kill_before(call: int) -> Callable[[], int]:
    """Let this process be killed before the `call`-th thing that it asks of MLflow; the count."""
    made = 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made >= call:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments, **named)

        return wrapper

    client = mlflow.tracking.MlflowClient
    for name, method in list(vars(client).items()):
        if callable(method) and not name.startswith("_"):
            setattr(client, name, counted(method))
    uploads.delete_folder = counted(uploads.delete_folder)
    return lambda: made
