"""The release's tasks in Prefect: decide about versions, apply verdicts, ask for approval."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from tasks.promotion.decision import Decision, decide
from tasks.promotion.evidence import (
    MEASURED_FILES,
    SCORED_FILES,
    EvidenceFiles,
    UnscoredChampion,
)
from tasks.promotion.params import Params, PromotionParams
from tasks.promotion.results import Reason
from tasks.records.schema import ServedModel
from tasks.records.text import text_sha256
from tasks.registry.approval import expire_old, open_requests
from tasks.registry.ledger import Entry, Ledger
from tasks.registry.params import ReleaseParams
from tasks.registry.promote import check_champion, record_verdict
from tasks.registry.transactions import reconcile
from tasks.registry.versions import REASONS_TAG, REFUSED_BY_TAG, VERDICT_TAG, Version
from tasks.stage.errors import GateError
from tasks.stage.metrics import METRICS_FILE
from tasks.stage.outputs import file_sha256, write_atomically
from tasks.stage.params import load_params

DECIDED_BY_TAG = "judged_by"

# Of each report that a verdict rests on, those that are there.
_REPORT_FILES = sorted({METRICS_FILE, *SCORED_FILES, *MEASURED_FILES})

Outcome = Literal["promoted", "refused"]

_WORDS = {"refused": "refused by", "warned": "warning of", "passed": "passed", "off": "off:"}


@dataclass(frozen=True)
class VerdictKey:
    """What a verdict on a version rests on: where any of it changes, the version is decided again.

    `reports` and `rules` are hashes; `champion` is `ALIAS:NUMBER`, `base`, or `itself`. What each
    release measures anew (speed, answers over HTTP) is no part of it.
    """

    reports: str
    rules: str
    champion: str

    @classmethod
    def read(cls, text: str) -> "VerdictKey | None":
        """Return the key in a version's tag; None for a tag of before, or for none."""
        if not text.startswith("{"):
            return None
        return cls(**json.loads(text))

    def text(self) -> str:
        """Return it as the tag holds it."""
        return json.dumps(asdict(self))

    def holds(self, now: "VerdictKey") -> bool:
        """Return whether a verdict of this key stands; no other champion came with its own rise."""
        same_champion = now.champion in (self.champion, ITSELF)
        return same_champion and (self.reports, self.rules) == (now.reports, now.rules)


ITSELF = "itself"


@dataclass(frozen=True)
class VersionVerdict:
    """What was found of one version; unchanged where the verdict of before stands.

    `stands` is the outcome by now, of before where it is unchanged; `refused_by` are its rules.
    `reasons` are what refused or warns, `passed` the rules with nothing against it. `decision` is
    every rule with its number, bound and interval, None where nothing was decided; `evidence` are
    the hashes of what it rests on, and the champion. Without a `key` it is decided again next time.
    """

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    stands: Outcome
    refused_by: tuple[str, ...]
    reasons: tuple[str, ...]
    passed: tuple[str, ...]
    decision: Decision | None
    key: VerdictKey | None
    evidence: Mapping[str, str]

    @property
    def told(self) -> tuple[str, ...]:
        """Return what the ledger keeps first: what refused and warns; of a promotion, all rules."""
        return self.reasons if self.verdict == "refused" else (*self.reasons, *self.passed)


def verdict_key(version: Version, root: Path, reports: Sequence[Path], champion: str) -> VerdictKey:
    """Return what a verdict on a version rests on now.

    `reports` are the folders of tonight's reports; what is not there counts as that, and `decide`
    says so.
    """
    files = [path / name for path in reports for name in _REPORT_FILES]
    digests = [file_sha256(path) if path.exists() else "" for path in files]
    return VerdictKey(text_sha256(*digests), file_sha256(_rules_file(root)), champion)


def earlier_verdict(version: Version, now: VerdictKey) -> VersionVerdict | None:
    """Return the verdict in a version's tags; None if what it rests on changed since."""
    then = VerdictKey.read(version.tags.get(DECIDED_BY_TAG, ""))
    if then is None or not then.holds(now):
        return None
    stands: Outcome = "promoted" if version.tags[VERDICT_TAG] == "promoted" else "refused"
    rules = tuple(json.loads(version.tags.get(REFUSED_BY_TAG, "[]")))
    against = f" by {', '.join(rules)}" if rules else ""
    champion = "" if then.champion == "base" else f", or another champion than {then.champion}"
    text = (
        f"{version.model}: nothing new: version {version.number} is this very bundle and was "
        f"{stands} before{against}. Another bundle, other reports, other rules in "
        f"params/promotion.yaml{champion} let it be decided again; `nightloom release` does so "
        "now, with its speed and its answers over HTTP measured anew"
    )
    return VersionVerdict(version, "unchanged", stands, rules, (text,), (), None, then, {})


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def decide_version(
    version: Version, root: Path, evidence: EvidenceFiles, key: VerdictKey
) -> VersionVerdict:
    """Decide about a version; it moves nothing yet."""
    params: PromotionParams = load_params(Params, [_rules_file(root)]).promotion
    decision = decide(params, evidence, model=version.model)
    hashes = evidence.digests() | {
        "rules": file_sha256(_rules_file(root)),
        "reigning": "base" if evidence.champion is None else evidence.champion.name,
    }
    # Such a refusal is of tonight: the next release decides again.
    stands = None if isinstance(evidence.champion, UnscoredChampion) else key
    found = _verdict(version, decision, stands, hashes)
    for reason in found.told:
        get_run_logger().info("%s", reason)
    create_table_artifact(
        [reason.row() for reason in decision.reasons],
        key=f"verdict-{version.model}",
        description=f"{version.model} version {version.number}: {decision.verdict}",
    )
    return found


def _verdict(
    version: Version, decision: Decision, key: VerdictKey | None, evidence: Mapping[str, str]
) -> VersionVerdict:
    """Return a decision as a verdict, what refused first."""

    def lines(*reasons: Reason) -> tuple[str, ...]:
        return tuple(_line(version.model, item) for item in reasons)

    outcome: Outcome = "refused" if decision.refused else "promoted"
    return VersionVerdict(
        version=version,
        verdict=outcome,
        stands=outcome,
        refused_by=tuple(dict.fromkeys(item.rule.partition("/")[0] for item in decision.refused)),
        reasons=lines(*decision.refused, *decision.warned),
        passed=lines(*decision.passed),
        decision=decision,
        key=key,
        evidence=evidence,
    )


def _line(model: ServedModel, reason: Reason) -> str:
    return f"{model}: {_WORDS[reason.outcome]} {reason.rule}: {reason.text}"


def warn_of_teacher(verdict: VersionVerdict, teacher: VersionVerdict) -> VersionVerdict:
    """Return a student's verdict with a warning where it goes on and its teacher does not."""
    if verdict.verdict != "promoted" or teacher.stands != "refused":
        return verdict
    text = (
        f"its teacher, {teacher.version.model} version {teacher.version.number}, is refused"
        f" ({', '.join(teacher.refused_by) or 'see its reasons'}); what is wrong with it, the "
        "student may have learned"
    )
    return _with_reason(verdict, Reason("teacher", "warned", text, None, None, None))


def _with_reason(verdict: VersionVerdict, reason: Reason) -> VersionVerdict:
    """Return a verdict with one more reason, before those of the rules."""
    assert verdict.decision is not None
    decision = replace(verdict.decision, reasons=(reason, *verdict.decision.reasons))
    return _verdict(verdict.version, decision, verdict.key, verdict.evidence)


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
def apply_verdict(verdict: VersionVerdict, ledger: Ledger, params: ReleaseParams) -> Entry | None:
    """Record a verdict in the ledger and in the version's tags, and move the aliases.

    Return the ledger's entry, None where the verdict of before stands.

    Raises:
        GateError: an alias was moved meanwhile.
    """
    if verdict.verdict == "unchanged":
        return None
    version, told = verdict.version, verdict.told
    # Not with the intent, whose length is bounded; without a verdict they say nothing yet.
    kept = json.dumps(_first_reasons(told, _TAG_CHARACTERS), ensure_ascii=False)
    rules = json.dumps(verdict.refused_by)
    ledger.registry.tag(version, {REASONS_TAG: kept, REFUSED_BY_TAG: rules})
    entry = record_verdict(
        ledger,
        version,
        params,
        promoted=verdict.verdict == "promoted",
        reason="; ".join(_first_reasons(told, _LEDGER_CHARACTERS)),
        evidence=dict(verdict.evidence) | {"reasons": text_sha256(json.dumps(told))},
        tags={
            VERDICT_TAG: verdict.verdict,
            DECIDED_BY_TAG: "" if verdict.key is None else verdict.key.text(),
        },
    )
    get_run_logger().info("the ledger's entry %d: %s", entry.number, entry.kind)
    return entry


def refuse_foreign_champion(verdict: VersionVerdict, ledger: Ledger) -> VersionVerdict:
    """Return the verdict, or a refusal if something else than Nightloom made the champion.

    Nothing is known of such a champion. The next release decides about the version again.
    """
    try:
        check_champion(ledger.registry, verdict.version.model)
    except GateError as error:
        reason = Reason("champion", "refused", error.message, None, None, None)
        return replace(_with_reason(verdict, reason), key=None)
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
