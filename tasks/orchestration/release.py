"""The release's tasks in Prefect: mend what was left, apply what was judged, ask people."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from tasks.orchestration.approval import expire_old
from tasks.orchestration.judgement import JUDGED_TAG, Judgement
from tasks.orchestration.ledger import Ledger
from tasks.orchestration.promotion import check_reign, decide_on
from tasks.orchestration.reconciliation import reconcile
from tasks.orchestration.retention import awaited
from tasks.orchestration.versions import REASONS_TAG, VERDICT_TAG, Model
from tasks.promotion.release_params import ReleaseParams
from tasks.records.hashing import text_sha256
from tasks.stage.errors import GateError

APPROVAL = "approve/approve"
# MLflow's registry refuses longer tags, and the ledger longer entries.
_TAG_CHARACTERS = 4000
_LEDGER_CHARACTERS = 2000


@task(task_run_name="reconcile-{model}", cache_policy=NO_CACHE, persist_result=False)
def mend(model: Model, ledger: Ledger, params: ReleaseParams, downloads: Path) -> list[str]:
    """What an earlier promoter, or something else, had left: mended or recorded now."""
    notes = reconcile(ledger, model)
    notes += expire_old(ledger, model, params, downloads)
    for note in notes:
        get_run_logger().warning("%s", note)
    return notes


@task(task_run_name="apply-{judgement.version.model}", cache_policy=NO_CACHE, persist_result=False)
def apply(judgement: Judgement, ledger: Ledger, params: ReleaseParams) -> None:
    """Nothing; a verdict is then in the ledger and in the version's tags, and the aliases moved.

    Raises:
        GateError: an alias was moved meanwhile.
    """
    if judgement.verdict == "unchanged":
        return
    version, reasons = judgement.version, json.dumps(judgement.reasons)
    # Not with the intent, whose length is bounded; without a verdict they say nothing yet.
    told = json.dumps(_first(judgement.reasons, _TAG_CHARACTERS), ensure_ascii=False)
    ledger.registry.tag(version, {REASONS_TAG: told})
    entry = decide_on(
        ledger,
        version,
        params,
        promoted=judgement.verdict == "promoted",
        reason="; ".join(_first(judgement.reasons, _LEDGER_CHARACTERS)),
        evidence=dict(judgement.evidence) | {"reasons": text_sha256(reasons)},
        tags={VERDICT_TAG: judgement.verdict, JUDGED_TAG: judgement.judged_by},
    )
    get_run_logger().info("the ledger's entry %d: %s", entry.number, entry.kind)


def held_against_ours(judgement: Judgement, ledger: Ledger) -> Judgement:
    """The judgement, a refusal where what reigns was not made by Nightloom.

    Nothing is known of such a version. The one that was judged is judged again by the next release.
    """
    try:
        check_reign(ledger.registry, judgement.version.model)
    except GateError as error:
        reasons = (f"{judgement.version.model}: {error.message}", *judgement.reasons)
        return replace(judgement, verdict="refused", reasons=reasons, judged_by="")
    return judgement


def _first(reasons: Sequence[str], most: int) -> list[str]:
    """The first reasons, as many as so many characters hold, and how many are left out."""
    kept: list[str] = []
    held = 0
    for place, reason in enumerate(reasons):
        held += len(reason) + len("; ")
        if held > most:
            return [*kept, f"and {len(reasons) - place} more"]
        kept.append(reason)
    return kept


@task(task_run_name="ask-{model}", cache_policy=NO_CACHE, persist_result=False)
def ask(model: Model, ledger: Ledger, *, shared: bool) -> list[str]:
    """What people are asked about a model, one sentence a question.

    Each question is one flow run on the shared server, however often it is asked.
    """
    told = []
    links = {link.entry.number: link for link in ledger.links(model)}
    for entry in awaited(ledger, model):
        what = f"{model}: version {entry.version} awaits approval for {entry.awaits}"
        if not shared:
            told.append(
                f"{what}; nobody was asked, since no Prefect server is up: `nightloom up`, then "
                f"run again, or `nightloom promote {entry.version} --to {entry.awaits}`"
            )
            continue
        name = f"{model}-{entry.version}-to-{entry.awaits}"
        try:
            run = _asking_run(name, links[entry.number].sha256)
        except ObjectNotFound:
            told.append(f"{what}; nobody was asked: `prefect deploy --name approve` first")
            continue
        told.append(f"{what}, asked in Prefect's UI as flow run {name} ({run.id})")
    return told


def _asking_run(name: str, sha256: str) -> Any:
    """The flow run that asks the question of an entry: the one that does, else a new one.

    One that ended while the ledger still waits for an answer was cancelled, or its process died.
    """
    runs: Iterator[Any] = (
        run_deployment(
            APPROVAL,
            parameters={"entry": sha256},
            flow_run_name=name,
            timeout=0,
            idempotency_key=f"nightloom-approval-{sha256}-{attempt}",
            as_subflow=False,
        )
        for attempt in count(1)
    )
    return next(run for run in runs if run.state is None or not run.state.is_final())
