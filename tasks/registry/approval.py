"""A person's approval: the request, whether it is still valid, and what the response does."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from tasks.records.schema import ServedModel
from tasks.registry.aliases import (
    Aliases,
    advance,
    aliases_after,
    find_champion,
)
from tasks.registry.audit import check_verdict, checked_bundle
from tasks.registry.ledger import Entry, Kind, Ledger, Link
from tasks.registry.params import ReleaseParams
from tasks.registry.promote import POLICY, check_champion
from tasks.registry.transactions import carry_out, new_intent, reconcile_and_log
from tasks.registry.versions import RegistryStage, Version
from tasks.stage.errors import ConfigError, DataError, GateError


@dataclass(frozen=True)
class ApprovalRequest:
    """The ledger's entry that asks whether a version may go to a stage."""

    link: Link
    version: Version
    to: RegistryStage

    @property
    def text(self) -> str:
        """In words."""
        return f"may {self.version.name} go to {self.to}?"

    @property
    def champion(self) -> str:
        """Return the champion when it was asked."""
        return _champion_name(self.link.entry.after)


@dataclass(frozen=True)
class ApprovalResponse:
    """The response to a request: by whom, and why; nobody says that it expired."""

    decision: Literal["approve", "reject", "expire"]
    by: str
    reason: str


def open_requests(ledger: Ledger, model: ServedModel) -> list[Entry]:
    """Return the entries of a model that wait for a person's response."""
    latest: dict[int | None, Entry] = {}
    for link in ledger.links(model):
        if link.entry.kind != "found":
            latest[link.entry.version] = link.entry
    return [entry for entry in latest.values() if entry.awaits is not None]


def read_request(ledger: Ledger, sha256: str) -> ApprovalRequest:
    """Read the approval request of the entry with a hash.

    Raises:
        ConfigError: no entry has it, or it asks for nothing.
    """
    link = next((item for item in ledger.links() if item.sha256 == sha256), None)
    model = None if link is None else link.entry.model
    if link is None or link.entry.awaits is None or link.entry.version is None or model is None:
        what = "no entry has it" if link is None else "the entry asks nobody"
        raise ConfigError(
            f"there is no question {sha256[:12]!r} in the ledger: {what}",
            "let a release ask: `nightloom run` with the policy `approval`",
        )
    version = ledger.registry.version(model, link.entry.version)
    return ApprovalRequest(link, version, link.entry.awaits)


def settle(
    ledger: Ledger,
    request: ApprovalRequest,
    response: ApprovalResponse,
    params: ReleaseParams,
    downloads: Path,
) -> Entry:
    """Carry a person's response out, and return its entry.

    An approval of a request that is no longer valid, or of a bundle that has changed since it was
    judged, is recorded and moves nothing. A second response changes nothing: the entry is the first
    one's. Call it while holding the lock.
    """
    reconcile_and_log(ledger, request.version.model)
    identity = f"approval-{request.link.sha256}"
    known = ledger.find(identity)
    if known is not None:
        return known.entry
    stale = _why_stale(ledger, request, downloads) if response.decision == "approve" else ""
    plan = None
    kind: Kind = "expired" if response.decision == "expire" else "rejected"
    by, reason = response.by, response.reason
    if stale:
        by, reason = POLICY, f"{response.by} approved ({response.reason}), but {stale}"
    elif response.decision == "approve":
        kind = "approved"
        now = ledger.registry.aliases(request.version.model)
        reached = aliases_after(now, request.version.number, request.to)
        plan = advance(reached, request.version.number, params, reached=request.to)
    intent = new_intent(ledger, request.version, kind, by=by, reason=reason, plan=plan)
    asked = {"question": request.link.sha256} | request.link.entry.evidence
    more = {"id": identity, "evidence": intent.evidence | asked}
    return carry_out(ledger, intent.model_copy(update=more))


def expire_old(
    ledger: Ledger, model: ServedModel, params: ReleaseParams, downloads: Path
) -> list[str]:
    """Expire the requests that nobody answered in time; return a note on each.

    Call it while holding the lock.
    """
    begun = datetime.now(UTC) - timedelta(hours=params.approval_hours)
    notes = []
    for entry in open_requests(ledger, model):
        link = ledger.find(entry.id)
        if link is None or datetime.fromisoformat(entry.time) > begun:
            continue
        request = read_request(ledger, link.sha256)
        text = f"nobody answered within {params.approval_hours:g} hours"
        settle(ledger, request, ApprovalResponse("expire", POLICY, text), params, downloads)
        notes.append(f"{text}: {request.text} It is not promoted")
    return notes


def _why_stale(ledger: Ledger, request: ApprovalRequest, downloads: Path) -> str:
    """Return why a request is no longer valid; empty if it is."""
    entry, model = request.link.entry, request.version.model
    about = [
        link
        for link in ledger.links(model)
        if link.entry.version == entry.version and link.entry.kind != "found"
    ]
    if about[-1].sha256 != request.link.sha256:
        newer = about[-1].entry
        return f"it was decided anew since: entry {newer.number}, {newer.kind} by {newer.by}"
    champion = _champion_name(ledger.registry.aliases(model))
    if champion != request.champion:
        return f"the champion was {request.champion} when it was judged, and is {champion} now"
    version = ledger.registry.version(model, request.version.number)
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
