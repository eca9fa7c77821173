"""Rules on latency and size, and on whether what is served is what was scored."""

from collections.abc import Iterator
from typing import Any

from tasks.promotion.evidence import ModelEvidence, value_at
from tasks.promotion.params import LatencyParams, ParityParams, SizeParams
from tasks.promotion.results import RuleResult
from tasks.promotion.rules.data_quality import is_number

_PROVES = (
    "the times were taken inside batches, on a machine that may have been busy, and prove nothing "
    "by themselves"
)


def latency(evidence: ModelEvidence, params: LatencyParams) -> Iterator[RuleResult]:
    """Check that answers took no longer in batches than the base's, or than is asked for.

    Other work on the machine changes such a time by itself, so the rule's params let it warn alone.
    """
    name = "latency_ms_p95"
    own, base = (evidence.found("sizes", system, name) for system in (evidence.system, "base"))
    if not is_number(own) or not is_number(base) or base <= 0:
        text = f"evaluation's metrics hold no sizes.{evidence.system}.{name}, or the base's"
        yield RuleResult(False, text, None, params.max_over_base)
        return
    ratio = own / base
    text = (
        f"inside a batch 95% of {evidence.system}'s answers took {ratio:.2f} times as long as the "
        f"base's at most; at most {params.max_over_base:.2f} times is asked for; {_PROVES}"
    )
    yield RuleResult(ratio <= params.max_over_base, text, ratio, params.max_over_base)
    most = params.max_p95_ms
    if most is not None:
        text = (
            f"inside a batch 95% of {evidence.system}'s answers took at most {own:.0f} ms; at most "
            f"{most:.0f} is asked for; {_PROVES}"
        )
        yield RuleResult(own <= most, text, float(own), most)


def size(evidence: ModelEvidence, params: SizeParams) -> Iterator[RuleResult]:
    """Check that weights take no more memory than the base's; a student's, than the adapter's."""
    whose, bound = "base", params.max_over_base
    if evidence.model == "student":
        whose, bound = "adapter", params.max_student_over_adapter
    own, theirs = (
        evidence.found("sizes", system, "megabytes") for system in (evidence.system, whose)
    )
    if not is_number(own) or not is_number(theirs) or theirs <= 0:
        text = f"evaluation's metrics hold no sizes.{evidence.system}.megabytes, or the {whose}'s"
        yield RuleResult(False, text, None, bound)
        return
    ratio = own / theirs
    text = (
        f"{evidence.system}'s weights take {own:.0f} MB in memory, {ratio:.2f} times the "
        f"{whose}'s; at most {bound:.2f} times is asked for"
    )
    yield RuleResult(ratio <= bound, text, ratio, bound)


def parity(evidence: ModelEvidence, params: ParityParams) -> Iterator[RuleResult]:
    """Check that the bundle answers as the model did in evaluation, in process and over HTTP."""
    bound = params.min_agreeing
    share = value_at(evidence.packaging, "parity", evidence.model)
    if not is_number(share):
        text = f"packaging's metrics hold no parity.{evidence.model}"
        yield RuleResult(False, text, None, bound)
    else:
        text = f"{share:.0%} of the bundle's answers in process are those that were scored"
        yield RuleResult(share >= bound, f"{text}; at least {bound:.0%} is asked for", share, bound)
        yield _packaged(evidence, params)
    yield from _served(evidence, params)


def _packaged(evidence: ModelEvidence, params: ParityParams) -> RuleResult:
    """Return what the bundle's other answers in process change of the score."""
    found = value_at(evidence.packaging, "parity_scores", evidence.model, "difference")
    return _difference(evidence, "answered in process", found, params)


def _difference(evidence: ModelEvidence, how: str, found: Any, params: ParityParams) -> RuleResult:
    most = params.max_score_difference
    if not is_number(found):
        text = f"nothing tells what {evidence.model} scores {how} against what was scored"
        return RuleResult(False, text, None, most)
    text = (
        f"{how}, {evidence.model} scores {found:+.3f} token_f1 against what was scored; at most "
        f"{most:.3f} either way is asked for"
    )
    return RuleResult(abs(found) <= most, text, found, most)


def _served(evidence: ModelEvidence, params: ParityParams) -> Iterator[RuleResult]:
    """Return what the registered version answered over HTTP."""
    bound = params.min_agreeing
    if evidence.parity.bundle_sha256 != evidence.bundle_sha256:
        text = (
            f"what was asked over HTTP is another bundle ({evidence.parity.bundle_sha256[:12]}) "
            f"than the one that is judged ({evidence.bundle_sha256[:12]})"
        )
        yield RuleResult(False, text, None, bound)
        return
    found = evidence.parity.models.get(evidence.model)
    if found is None or found.asked == 0:
        text = f"the registered {evidence.model} was not asked anything over HTTP"
        yield RuleResult(False, text, None, bound)
        return
    share = found.agreeing / found.asked
    text = (
        f"{found.agreeing} of {found.asked} answers over HTTP are those that were scored; at least "
        f"{bound:.0%} is asked for"
    )
    yield RuleResult(share >= bound, text, share, bound)
    yield _difference(evidence, "served over HTTP", found.mean_score_difference, params)
