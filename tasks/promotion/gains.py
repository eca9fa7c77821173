"""The rules that hold a model's scores against the base's and the adapter's."""

import math
from collections.abc import Mapping

from tasks.promotion.params import PromotionParams
from tasks.promotion.reason import Model, Reason
from tasks.statistics.intervals import paired_bootstrap
from tasks.statistics.power import smallest_detectable


def enough_records(
    scores: Mapping[str, Mapping[str, float]],
    model: Model,
    system: str,
    mode: str,
    params: PromotionParams,
) -> Reason:
    """So many records could have shown a difference to the base of the size that is asked for."""
    shared = sorted(scores[model].keys() & scores["base"].keys())
    differences = [scores[model][record] - scores["base"][record] for record in shared]
    bound = params.max_detectable
    if not all(map(math.isfinite, differences)):
        text = f"scores of {system} or base in mode {mode} are not finite"
        return Reason("power", False, text, None, bound)
    found = smallest_detectable(differences, alpha=1 - params.confidence, power=params.power)
    if found.value is None:
        text = f"{system} against base in mode {mode}: {found.reason}; such scores decide nothing"
        return Reason("power", False, text, None, bound)
    text = (
        f"{len(shared)} records show a difference of {found.value:.3f} {params.primary_metric} "
        f"({params.power:.0%} power); at most {bound:.3f} is asked for"
    )
    passed = found.value <= bound
    if not passed:
        needed = math.ceil(len(shared) * (found.value / bound) ** 2)
        text += f", which takes about {needed} records: raise evaluation.records, or take in more"
    return Reason("power", passed, text, found.value, bound)


def beats_base(
    scores: Mapping[str, Mapping[str, float]],
    model: Model,
    system: str,
    mode: str,
    params: PromotionParams,
    reigning: str | None,
) -> Reason:
    """The model gains on the base, and the whole interval of its gain lies above the bound."""
    shared = sorted(scores[model].keys() & scores["base"].keys())
    left, right = ([scores[name][record] for record in shared] for name in (model, "base"))
    if not shared or not all(map(math.isfinite, [*left, *right])):
        text = f"{system} and base share no records with finite scores in mode {mode}"
        return Reason("beats_base", False, text, None, params.min_gain)
    gain = paired_bootstrap(
        left,
        right,
        confidence=params.confidence,
        resamples=params.resamples,
        seed=params.seed,
    )
    passed = gain.low > params.min_gain
    text = (
        f"{system} gains {gain.value:+.3f} {params.primary_metric} over the base in mode {mode}; "
        f"the {params.confidence:.0%} interval {gain.low:+.3f} to {gain.high:+.3f} "
        f"{'lies' if passed else 'does not lie'} above {params.min_gain:+.3f} "
        f"(reigning: {reigning or 'none'})"
    )
    return Reason("beats_base", passed, text, gain.low, params.min_gain)


def retention(
    scores: Mapping[str, Mapping[str, float]], system: str, mode: str, params: PromotionParams
) -> Reason:
    """The offered student keeps enough of the adapter's mean score."""
    adapter, student = (sum(scores[name].values()) for name in ("adapter", "student"))
    if not (adapter > 0 and math.isfinite(adapter) and math.isfinite(student)):
        text = f"the adapter scores nothing in mode {mode}, so there is nothing to retain"
        return Reason("retention", False, text, None, params.min_retention)
    share = student / adapter
    text = f"{system} keeps {share:.0%} of the adapter's {params.primary_metric} in mode {mode}"
    return Reason("retention", share >= params.min_retention, text, share, params.min_retention)
