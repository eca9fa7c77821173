"""Rules on speed and size, and on whether what is served is what was scored."""

from collections.abc import Iterator
from typing import Any

from tasks.promotion.evidence import ModelEvidence, value_at
from tasks.promotion.params import LatencyParams, ParityParams, SizeParams
from tasks.promotion.results import RuleResult
from tasks.promotion.rules.data_quality import is_number
from tasks.promotion.speed import LEAST_ROUNDS, Ratio, Speed
from tasks.records.schema import ServedModel
from tasks.statistics.bootstrap import Interval

_CLOCK = "time"
_CORES = "seconds of the machine's cores"


def latency(evidence: ModelEvidence, params: LatencyParams) -> Iterator[RuleResult]:
    """Check that a model is not slower than its base, by what was measured in turns with it."""
    speed, bound = evidence.speed, params.max_over_base
    if speed is None:
        text = "nothing was measured of its speed: an older release left no speed.json"
        yield RuleResult(False, text, None, bound, mild=True)
    elif speed.bundle_sha256 != evidence.bundle_sha256:
        text = (
            f"the speed is of another bundle ({speed.bundle_sha256[:12]}) than the one that is "
            f"judged ({evidence.bundle_sha256[:12]})"
        )
        yield RuleResult(False, text, None, bound, mild=True)
    else:
        yield from slower_than_base(speed, evidence.model, params)


def slower_than_base(
    speed: Speed, model: ServedModel, params: LatencyParams
) -> Iterator[RuleResult]:
    """Check a model's ratios to the base: by the clock, and on a CPU by what its cores spent too.

    What other programs do changes the second little, so it shows more where the machine is busy.
    Only an interval that lies wholly above the bound can refuse.
    """
    found, rounds, bound = speed.over_base.get(model), len(speed.rounds), params.max_over_base
    if found is None or rounds < LEAST_ROUNDS:
        text = (
            f"{model}'s speed was measured in {rounds} rounds; at least {LEAST_ROUNDS} are needed, "
            "since fewer prove nothing. The machine was slow or busy: `nightloom release` measures "
            "again when it is quieter"
        )
        yield RuleResult(False, text, None, bound, mild=True)
        return
    yield _beside_base(model, _CLOCK, found.seconds, rounds, bound)
    if speed.device == "cpu":
        yield _beside_base(model, _CORES, found.cpu_seconds, rounds, bound)


def _beside_base(
    model: ServedModel, what: str, ratio: Ratio, rounds: int, bound: float
) -> RuleResult:
    """Return what a ratio shows: within the bound, above it, or hidden by its spread."""
    text = (
        f"{model} takes {ratio.value:.2f} times the base's {what} for the same work "
        f"[{ratio.low:.2f}, {ratio.high:.2f}], over {rounds} rounds in turns; at most {bound:.2f} "
        "times is asked for"
    )
    hidden = ratio.low <= bound < ratio.high
    if hidden:
        text += ". The spread hides whether it is: `nightloom release` measures again"
    interval = Interval(ratio.value, ratio.low, ratio.high)
    return RuleResult(ratio.high <= bound, text, ratio.value, bound, interval, mild=hidden)


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
    metric = value_at(evidence.packaging, "parity_scores", evidence.model, "metric") or "token_f1"
    text = (
        f"{how}, {evidence.model} scores {found:+.3f} {metric} against what was scored; at most "
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
