"""A person's approval: the request, whether it is still valid, and what the response does."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from tasks.records.schema import ServedModel
from tasks.registry.aliases import (
    Aliases,
    AliasPlan,
    advance,
    aliases_after,
    find_champion,
    own_aliases,
)
from tasks.registry.audit import check_verdict, checked_bundle
from tasks.registry.ledger import Entry, Kind, Ledger, Link
from tasks.registry.params import ReleaseParams
from tasks.registry.promote import POLICY, check_champion, new_intent
from tasks.registry.transactions import carry_out, reconcile_and_log
from tasks.registry.versions import RegistryStage, Version
from tasks.stage.errors import ConfigError, DataError, GateError


@dataclass(frozen=True)
class ApprovalRequest:
    """Whether a version may go to a stage, as the ledger's entry asked it."""

    link: Link
    version: Version
    to: RegistryStage

    @property
    def text(self) -> str:
        """In words."""
        return f"may {self.version.name} go to {self.to}?"

    @property
    def champion(self) -> str:
        """The champion when it was asked."""
        return _champion_name(self.link.entry.after)


@dataclass(frozen=True)
class ApprovalResponse:
    """What was said to a question: by whom, and why; nobody says that it expired."""

    decision: Literal["approve", "reject", "expire"]
    by: str
    reason: str


def open_requests(ledger: Ledger, model: ServedModel) -> list[Entry]:
    """Return the entries of a model that wait for a person's answer."""
    latest: dict[int | None, Entry] = {}
    for link in ledger.links(model):
        if link.entry.kind != "found":
            latest[link.entry.version] = link.entry
    return [entry for entry in latest.values() if entry.awaits is not None]


def read_request(ledger: Ledger, sha256: str) -> ApprovalRequest:
    """The question of the entry with a hash.

    Raises:
        ConfigError: no entry has it, or it asks nothing.
    """
    link = next((item for item in ledger.links() if item.sha256 == sha256), None)
    if link is None or link.entry.awaits is None or link.entry.version is None:
        what = "no entry has it" if link is None else "the entry asks nobody"
        raise ConfigError(
            f"there is no question {sha256[:12]!r} in the ledger: {what}",
            "let a release ask: `nightloom run` with the policy `approval`",
        )
    version = ledger.registry.version(link.entry.model, link.entry.version)
    return ApprovalRequest(link, version, link.entry.awaits)


def settle(
    ledger: Ledger,
    question: ApprovalRequest,
    answer: ApprovalResponse,
    params: ReleaseParams,
    downloads: Path,
) -> Entry:
    """The ledger's entry of an answer, with the version moved where it is approved.

    An approval of what no longer stands, or of a bundle that is not what was judged any more, is
    recorded and moves nothing. A second answer is not heard: the entry is the first one's. Call it
    while holding the turn.
    """
    reconcile_and_log(ledger, question.version.model)
    identity = f"approval-{question.link.sha256}"
    known = ledger.find(identity)
    if known is not None:
        return known.entry
    stale = _why_stale(ledger, question, downloads) if answer.decision == "approve" else ""
    now = ledger.registry.aliases(question.version.model)
    plan = AliasPlan(own_aliases(now), awaits=None)
    kind: Kind = "expired" if answer.decision == "expire" else "rejected"
    by, reason = answer.by, answer.reason
    if stale:
        by, reason = POLICY, f"{answer.by} approved ({answer.reason}), but {stale}"
    elif answer.decision == "approve":
        kind = "approved"
        reached = aliases_after(now, question.version.number, question.to)
        further = advance(reached, question.version.number, params, reached=question.to)
        plan = AliasPlan(further.after, further.awaits)
    intent = new_intent(ledger, question.version, kind, by=by, reason=reason, plan=plan)
    asked = {"question": question.link.sha256} | question.link.entry.evidence
    more = {"id": identity, "evidence": intent.evidence | asked}
    return carry_out(ledger, intent.model_copy(update=more))


def expire_old(
    ledger: Ledger, model: ServedModel, params: ReleaseParams, downloads: Path
) -> list[str]:
    """What nobody answered in time, though whoever waited for the answer is gone: now recorded.

    Call it while holding the turn.
    """
    begun = datetime.now(UTC) - timedelta(hours=params.approval_hours)
    notes = []
    for entry in open_requests(ledger, model):
        link = ledger.find(entry.id)
        if link is None or datetime.fromisoformat(entry.time) > begun:
            continue
        question = read_request(ledger, link.sha256)
        text = f"nobody answered within {params.approval_hours:g} hours"
        settle(ledger, question, ApprovalResponse("expire", POLICY, text), params, downloads)
        notes.append(f"{text}: {question.text} It is not promoted")
    return notes


def _why_stale(ledger: Ledger, question: ApprovalRequest, downloads: Path) -> str:
    """Why a question no longer stands; empty where it does."""
    entry, model = question.link.entry, question.version.model
    about = [
        link
        for link in ledger.links(model)
        if link.entry.version == entry.version and link.entry.kind != "found"
    ]
    if about[-1].sha256 != question.link.sha256:
        newer = about[-1].entry
        return f"it was decided anew since: entry {newer.number}, {newer.kind} by {newer.by}"
    champion = _champion_name(ledger.registry.aliases(model))
    if champion != question.champion:
        return f"the champion was {question.champion} when it was judged, and is {champion} now"
    version = ledger.registry.version(model, question.version.number)
    try:
        check_champion(ledger.registry, model)
        check_verdict(ledger, version, despite_refusal=False)
        checked_bundle(ledger, version, downloads)
    except (GateError, DataError) as error:
        return error.message
    return ""


def _champion_name(aliases: Aliases) -> str:
    champion = find_champion(aliases)
    return "the base" if champion is None else champion.name
