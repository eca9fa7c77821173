"""The verdict on a registered version, from the evidence that the night left in files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.versions import VERDICT_TAG, Version
from tasks.promotion.decision import Decision, decide
from tasks.promotion.evidence import Evidence
from tasks.promotion.params import Params, PromotionParams
from tasks.records.hashing import text_sha256
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256, write_atomically
from tasks.stage.params import load_params

JUDGED_TAG = "judged_by"
_LABELS = {"warned": "warning: ", "off": "off: "}


@dataclass(frozen=True)
class Judgement:
    """What was found of one version; unchanged where it had been judged before.

    `decision` is every rule with its number, bound and interval, None where nothing was decided;
    `evidence` are the hashes of what it rests on, and what reigned.
    """

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    reasons: tuple[str, ...]
    decision: Decision | None
    judged_by: str
    evidence: Mapping[str, str]


def earlier_judgement(version: Version, root: Path, curation_report: Path) -> Judgement | None:
    """The judgement that a version's tags carry; None where the rules changed, or known leaks."""
    judged_by = _judged_by(root, curation_report)
    if version.tags.get(JUDGED_TAG) != judged_by:
        return None
    text = (
        f"nothing new: {version.model} version {version.number} is this very bundle and was "
        f"{version.tags[VERDICT_TAG]} before"
    )
    return Judgement(version, "unchanged", (text,), None, judged_by, {})


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def judge(version: Version, root: Path, evidence: Evidence) -> Judgement:
    """The verdict on a version, which moves nothing yet."""
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
    return Judgement(
        version,
        "promoted" if decision.verdict == "promote" else "refused",
        reasons,
        decision,
        _judged_by(root, evidence.curation),
        evidence.digests()
        | {
            "rules": file_sha256(_rules_file(root)),
            "reigning": "base" if evidence.reigning is None else evidence.reigning.name,
        },
    )


def write_decision(judgement: Judgement, path: Path) -> None:
    """Write what was decided of a version, rule by rule, and the hashes of its evidence as JSON.

    Nothing is written where nothing was decided.
    """
    if judgement.decision is None:
        return
    content = {
        "model": judgement.version.model,
        "version": judgement.version.number,
        "verdict": judgement.verdict,
        "evidence": dict(judgement.evidence),
        "reasons": [reason.row() for reason in judgement.decision.reasons],
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
