"""The verdict on a registered version, from the evidence that the night left in files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.promotion import move
from tasks.orchestration.registry import Registry, Version
from tasks.promotion.decision import Decision, decide
from tasks.promotion.evidence import Evidence
from tasks.promotion.params import Params, PromotionParams
from tasks.records.hashing import text_sha256
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256, write_atomically
from tasks.stage.params import load_params

VERDICT_TAG = "verdict"
JUDGED_TAG = "judged_by"
# MLflow's registry refuses longer tags.
_TAG_CHARACTERS = 5000
_LABELS = {"warned": "warning: ", "off": "off: "}


@dataclass(frozen=True)
class Judgement:
    """What was decided about one version; unchanged where it had been judged before.

    `decision` is every rule with its number, bound and interval; None where nothing was decided.
    """

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    reasons: tuple[str, ...]
    decision: Decision | None


def earlier_judgement(version: Version, root: Path, curation_report: Path) -> Judgement | None:
    """The judgement that a version's tags carry; None where the rules changed, or known leaks."""
    if version.tags.get(JUDGED_TAG) != _judged_by(root, curation_report):
        return None
    text = (
        f"nothing new: {version.model} version {version.number} is this very bundle and was "
        f"{version.tags[VERDICT_TAG]} before"
    )
    return Judgement(version, "unchanged", (text,), None)


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def judge(version: Version, root: Path, evidence: Evidence, registry: Registry) -> Judgement:
    """The verdict on a version, which its tags then carry; a judged one keeps its own.

    It is judged again where the rules changed, or what was found of leaks.
    """
    known = earlier_judgement(version, root, evidence.curation)
    if known is not None:
        return known
    params: PromotionParams = load_params(Params, [_rules_file(root)]).promotion
    decision = decide(params, evidence, model=version.model)
    promoted = decision.verdict == "promote"
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
    move(registry, version, params, promoted=promoted)
    verdict: Literal["promoted", "refused"] = "promoted" if promoted else "refused"
    # Last: a night that dies before this line judges the version again.
    judged_by = _judged_by(root, evidence.curation)
    registry.tag(version, {VERDICT_TAG: verdict, "reasons": _tag(reasons), JUDGED_TAG: judged_by})
    return Judgement(version, verdict, reasons, decision)


def write_decision(decision: Decision, version: Version, evidence: Evidence, path: Path) -> None:
    """Write a decision, what it is of and the hashes of its evidence as JSON."""
    content = {
        "model": decision.model,
        "version": version.number,
        "verdict": decision.verdict,
        "reigning": None if evidence.reigning is None else evidence.reigning.name,
        "evidence": evidence.digests(),
        "reasons": [reason.row() for reason in decision.reasons],
    }
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _rules_file(root: Path) -> Path:
    return root / "params" / "promotion.yaml"


def _judged_by(root: Path, curation_report: Path) -> str:
    return text_sha256(file_sha256(_rules_file(root)), _leak_evidence(curation_report))


def _leak_evidence(curation_report: Path) -> str:
    """What curation found of leaks, as text; empty where it left nothing, for `decide` to say."""
    if not (curation_report / METRICS_FILE).exists():
        return ""
    return json.dumps(read_metrics(curation_report).get("leaks"), sort_keys=True)


def _tag(reasons: tuple[str, ...]) -> str:
    """As many of the reasons as a tag holds, as JSON."""
    kept = list(reasons)
    while len(text := json.dumps(kept, ensure_ascii=False)) > _TAG_CHARACTERS:
        kept.pop()
    return text
