"""The verdict on a registered version, from the evidence that the night left in files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.promotion import move, reigning_name
from tasks.orchestration.registry import Registry, Version
from tasks.promotion.decision import Decision, decide
from tasks.promotion.params import Params, PromotionParams
from tasks.records.hashing import text_sha256
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256
from tasks.stage.params import load_params

VERDICT_TAG = "verdict"
JUDGED_TAG = "judged_by"


@dataclass(frozen=True)
class Judgement:
    """What was decided about one version; unchanged where it had been judged before."""

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    reasons: tuple[str, ...]


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def judge(
    version: Version,
    root: Path,
    evaluation_report: Path,
    curation_report: Path,
    registry: Registry,
) -> Judgement:
    """The verdict on a version, which its tags then carry; a judged one keeps its own.

    It is judged again where the rules changed, or what was found of leaks.
    """
    logger = get_run_logger()
    params_file = root / "params" / "promotion.yaml"
    judged_by = text_sha256(file_sha256(params_file), _leak_evidence(curation_report))
    if version.tags.get(JUDGED_TAG) == judged_by:
        text = f"nothing new: {version.model} version {version.number} is this very bundle and was "
        return Judgement(version, "unchanged", (f"{text}{version.tags[VERDICT_TAG]} before",))
    params: PromotionParams = load_params(Params, [params_file]).promotion
    reigning = reigning_name(registry, version.model)
    decision = decide(
        params, evaluation_report, curation_report, model=version.model, reigning=reigning
    )
    promoted = decision.verdict == "promote"
    reasons = _reasons(decision)
    for reason in reasons:
        logger.info("%s", reason)
    move(registry, version, params, promoted=promoted)
    verdict: Literal["promoted", "refused"] = "promoted" if promoted else "refused"
    # Last: a night that dies before this line judges the version again.
    registry.tag(
        version,
        {VERDICT_TAG: verdict, "reasons": json.dumps(reasons)[:4000], JUDGED_TAG: judged_by},
    )
    return Judgement(version, verdict, reasons)


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
