"""The release's tasks in Prefect: decide about versions, apply verdicts, ask for approval."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from tasks.promotion.decision import Decision, decide
from tasks.promotion.evidence import EvidenceFiles
from tasks.promotion.params import Params, PromotionParams
from tasks.records.schema import ServedModel
from tasks.records.text import text_sha256
from tasks.registry.approval import expire_old, open_requests
from tasks.registry.ledger import Entry, Ledger
from tasks.registry.params import ReleaseParams
from tasks.registry.promote import check_champion, record_verdict
from tasks.registry.transactions import reconcile
from tasks.registry.versions import REASONS_TAG, VERDICT_TAG, Version
from tasks.stage.errors import GateError
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256, write_atomically
from tasks.stage.params import load_params

DECIDED_BY_TAG = "judged_by"

_LABELS = {"warned": "warning: ", "off": "off: "}


@dataclass(frozen=True)
class VersionVerdict:
    """What was found of one version; unchanged where it had been judged before.

    `decision` is every rule with its number, bound and interval, None where nothing was decided;
    `evidence` are the hashes of what it rests on, and the champion.
    """

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    reasons: tuple[str, ...]
    decision: Decision | None
    decided_by: str
    evidence: Mapping[str, str]


def earlier_verdict(version: Version, root: Path, curation_report: Path) -> VersionVerdict | None:
    """Return the verdict in a version's tags; None if the rules or the known leaks changed."""
    decided_by = _decided_by(root, curation_report)
    if version.tags.get(DECIDED_BY_TAG) != decided_by:
        return None
    text = (
        f"nothing new: {version.model} version {version.number} is this very bundle and was "
        f"{version.tags[VERDICT_TAG]} before"
    )
    return VersionVerdict(version, "unchanged", (text,), None, decided_by, {})


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def decide_version(version: Version, root: Path, evidence: EvidenceFiles) -> VersionVerdict:
    """Decide about a version; it moves nothing yet."""
    params: PromotionParams = load_params(Params, [_rules_file(root)]).promotion
    decision = decide(params, evidence, model=version.model)
    reasons = tuple(
        f"{decision.model}: {_LABELS.get(reason.outcome, '')}{reason.text}"
        for reason in decision.told()
    )
    for reason in reasons:
        get_run_logger().info("%s", reason)
    create_table_artifact(
        [reason.row() for reason in decision.reasons],
        key=f"verdict-{version.model}",
        description=f"{version.model} version {version.number}: {decision.verdict}",
    )
    return VersionVerdict(
        version,
        "promoted" if decision.verdict == "promote" else "refused",
        reasons,
        decision,
        _decided_by(root, evidence.curation),
        evidence.digests()
        | {
            "rules": file_sha256(_rules_file(root)),
            "reigning": "base" if evidence.champion is None else evidence.champion.name,
        },
    )


def write_decision(verdict: VersionVerdict, path: Path) -> None:
    """Write what was decided of a version, rule by rule, and the hashes of its evidence as JSON.

    Nothing is written where nothing was decided.
    """
    if verdict.decision is None:
        return
    content = {
        "model": verdict.version.model,
        "version": verdict.version.number,
        "verdict": verdict.verdict,
        "evidence": dict(verdict.evidence),
        "reasons": [reason.row() for reason in verdict.decision.reasons],
    }
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _rules_file(root: Path) -> Path:
    return root / "params" / "promotion.yaml"


def _decided_by(root: Path, curation_report: Path) -> str:
    return text_sha256(file_sha256(_rules_file(root)), _leak_evidence(curation_report))


def _leak_evidence(curation_report: Path) -> str:
    """Return what curation found of leaks, as text; empty if it left nothing: `decide` says so."""
    if not (curation_report / METRICS_FILE).exists():
        return ""
    return json.dumps(read_metrics(curation_report).get("leaks"), sort_keys=True)


APPROVAL = "approve/approve"

# MLflow's registry refuses longer tags, and the ledger longer entries.
_TAG_CHARACTERS = 4000

_LEDGER_CHARACTERS = 2000


@task(task_run_name="reconcile-{model}", cache_policy=NO_CACHE, persist_result=False)
def mend(model: ServedModel, ledger: Ledger, params: ReleaseParams, downloads: Path) -> list[str]:
    """Mend or record what an earlier promoter, or something else, had left; return the notes."""
    notes = reconcile(ledger, model)
    notes += expire_old(ledger, model, params, downloads)
    for note in notes:
        get_run_logger().warning("%s", note)
    return notes


@task(task_run_name="apply-{verdict.version.model}", cache_policy=NO_CACHE, persist_result=False)
def apply_verdict(verdict: VersionVerdict, ledger: Ledger, params: ReleaseParams) -> None:
    """Record a verdict in the ledger and in the version's tags, and move the aliases.

    Raises:
        GateError: an alias was moved meanwhile.
    """
    if verdict.verdict == "unchanged":
        return
    version, reasons = verdict.version, json.dumps(verdict.reasons)
    # Not with the intent, whose length is bounded; without a verdict they say nothing yet.
    told = json.dumps(_first_reasons(verdict.reasons, _TAG_CHARACTERS), ensure_ascii=False)
    ledger.registry.tag(version, {REASONS_TAG: told})
    entry = record_verdict(
        ledger,
        version,
        params,
        promoted=verdict.verdict == "promoted",
        reason="; ".join(_first_reasons(verdict.reasons, _LEDGER_CHARACTERS)),
        evidence=dict(verdict.evidence) | {"reasons": text_sha256(reasons)},
        tags={VERDICT_TAG: verdict.verdict, DECIDED_BY_TAG: verdict.decided_by},
    )
    get_run_logger().info("the ledger's entry %d: %s", entry.number, entry.kind)


def refuse_foreign_champion(verdict: VersionVerdict, ledger: Ledger) -> VersionVerdict:
    """Return the verdict, or a refusal if something else than Nightloom made the champion.

    Nothing is known of such a champion. The next release decides about the version again.
    """
    try:
        check_champion(ledger.registry, verdict.version.model)
    except GateError as error:
        reasons = (f"{verdict.version.model}: {error.message}", *verdict.reasons)
        return replace(verdict, verdict="refused", reasons=reasons, decided_by="")
    return verdict


def _first_reasons(reasons: Sequence[str], most: int) -> list[str]:
    """Return as many reasons as so many characters hold, and how many are left out."""
    kept: list[str] = []
    held = 0
    for place, reason in enumerate(reasons):
        held += len(reason) + len("; ")
        if held > most:
            return [*kept, f"and {len(reasons) - place} more"]
        kept.append(reason)
    return kept


@task(task_run_name="ask-{model}", cache_policy=NO_CACHE, persist_result=False)
def ask_for_approval(model: ServedModel, ledger: Ledger, *, shared: bool) -> list[str]:
    """Ask people about a model's open requests; return one sentence a request.

    Each question is one flow run on the shared server, however often it is asked.
    """
    told = []
    links = {link.entry.number: link for link in ledger.links(model)}
    for entry in open_requests(ledger, model):
        what = f"{model}: version {entry.version} awaits approval for {entry.awaits}"
        if not shared:
            told.append(
                f"{what}; nobody was asked, since no Prefect server is up: `nightloom up`, then "
                f"run again, or `nightloom promote {entry.version} --to {entry.awaits}`"
            )
            continue
        name = approval_run_name(entry)
        try:
            run = _approval_run(name, links[entry.number].sha256)
        except ObjectNotFound:
            told.append(f"{what}; nobody was asked: `prefect deploy --name approve` first")
            continue
        told.append(f"{what}, asked in Prefect's UI as flow run {name} ({run.id})")
    return told


def approval_run_name(entry: Entry) -> str:
    """Return the name of the flow run that asks about an entry of the ledger."""
    return f"approve {entry.model} {entry.version} to {entry.awaits}"


def _approval_run(name: str, sha256: str) -> Any:
    """Return the flow run that asks about an entry: the one that does, else a new one.

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
