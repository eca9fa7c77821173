"""The verdict on a registered version, from the evidence that the night left in files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.promotion import reigning_name
from tasks.orchestration.registry import Registry
from tasks.orchestration.versions import VERDICT_TAG, Version
from tasks.promotion.decision import Decision, decide
from tasks.promotion.params import Params, PromotionParams
from tasks.records.hashing import text_sha256
from tasks.records.predictions import PREDICTIONS_FILE
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256
from tasks.stage.params import load_params

JUDGED_TAG = "judged_by"


@dataclass(frozen=True)
class Judgement:
    """What was found of one version; unchanged where it had been judged before.

    `evidence` are the hashes of what it rests on, and what reigned.
    """

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    reasons: tuple[str, ...]
    judged_by: str
    evidence: Mapping[str, str]


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def judge(
    version: Version,
    root: Path,
    evaluation_report: Path,
    curation_report: Path,
    registry: Registry,
) -> Judgement:
    """The verdict on a version, which moves nothing yet; a judged one keeps its own.

    It is judged again where the rules changed, or what was found of leaks.
    """
    logger = get_run_logger()
    params_file = root / "params" / "promotion.yaml"
    judged_by = text_sha256(file_sha256(params_file), _leak_evidence(curation_report))
    if version.tags.get(JUDGED_TAG) == judged_by:
        text = f"nothing new: {version.model} version {version.number} is this very bundle and was "
        known = (f"{text}{version.tags[VERDICT_TAG]} before",)
        return Judgement(version, "unchanged", known, judged_by, {})
    params: PromotionParams = load_params(Params, [params_file]).promotion
    reigning = reigning_name(registry, version.model)
    decision = decide(
        params, evaluation_report, curation_report, model=version.model, reigning=reigning
    )
    promoted = decision.verdict == "promote"
    reasons = _reasons(decision)
    for reason in reasons:
        logger.info("%s", reason)
    verdict: Literal["promoted", "refused"] = "promoted" if promoted else "refused"
    evidence = {
        "metrics": file_sha256(evaluation_report / METRICS_FILE),
        "predictions": file_sha256(evaluation_report / PREDICTIONS_FILE),
        "curation": file_sha256(curation_report / METRICS_FILE),
        "rules": file_sha256(params_file),
        "reigning": reigning or "base",
    }
    return Judgement(version, verdict, reasons, judged_by, evidence)


def _leak_evidence(curation_report: Path) -> str:
    """What curation found of leaks, as text; empty where it left nothing, for `decide` to say."""
    if not (curation_report / METRICS_FILE).exists():
        return ""
    return json.dumps(read_metrics(curation_report).get("leaks"), sort_keys=True)


def _reasons(decision: Decision) -> tuple[str, ...]:
    """What decided: every rule that refused, else every rule; what warns is told in any case."""
    refused = [item for item in decision.reasons if not item.passed and not item.warns]
    warned = [item for item in decision.reasons if not item.passed and item.warns]
    told = [*refused, *warned] if refused else decision.reasons
    return tuple(f"{decision.model}: {reason.text}" for reason in told)
