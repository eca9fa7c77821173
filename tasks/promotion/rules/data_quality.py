"""Rules on whether the evidence can be trusted: rows, leaks, missing metrics, records, power."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from tasks.promotion.evidence import Metrics, ModelEvidence, value_at
from tasks.promotion.params import (
    CompletenessParams,
    LeakParams,
    PowerParams,
    QuarantineParams,
    RuleParams,
    WearParams,
)
from tasks.promotion.results import RuleResult, nothing_to_ask
from tasks.records.predictions import MODES
from tasks.stage.metrics import flatten
from tasks.statistics.significance import smallest_detectable

_ROWS = ("records", "documents")

_LEAK_WAYS = ("questions", "few_shot", "documents", "groups")

_PERPLEXITIES = ("perplexity",)

_COMPARED = ("difference", "low", "high", "p_value_holm", "smallest_detectable")

_RETRIEVAL_METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10")


def data_accepted(evidence: ModelEvidence, params: QuarantineParams) -> Iterator[RuleResult]:
    """Check that validation accepted rows, checked the set, and refused few enough rows."""
    bound = params.max_quarantine_share
    shares = {name: value_at(evidence.validation, name, "quarantine_share") for name in _ROWS}
    accepted = value_at(evidence.validation, "records", "accepted")
    if not (all(is_number(share) for share in shares.values()) and is_number(accepted)):
        text = "validation's metrics do not tell what was accepted; no validation, no promotion"
        yield RuleResult(False, text, None, bound)
        return
    if not evidence.validation.get("set"):
        yield RuleResult(False, "validation did not check the set as a whole", None, bound)
        return
    worst = max(shares, key=lambda name: shares[name])
    text = (
        f"{accepted} records were accepted; of the {worst}, {shares[worst]:.1%} were refused "
        f"(at most {bound:.1%})"
    )
    warned = sorted(evidence.validation.get("warnings", {}))
    if warned:
        text += f"; validation warns of {', '.join(warned[:5])}"
    yield RuleResult(accepted > 0 and shares[worst] <= bound, text, shares[worst], bound)


def no_leak(evidence: ModelEvidence, params: LeakParams) -> Iterator[RuleResult]:
    """Check that train, few-shot prompts and documents hold nothing of the test split."""
    found = evidence.curation.get("leaks", {})
    bound = float(params.max_leaks)
    counts = [found.get(way) for way in _LEAK_WAYS]
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        text = "curation's metrics do not tell the leaks of every way; no leak check, no promotion"
        yield RuleResult(False, text, None, bound)
        return
    total = sum(counts)
    text = "no test row is known to train, to few-shot prompts or to the documents"
    if total:
        told = ", ".join(f"{way} {count}" for way, count in zip(_LEAK_WAYS, counts, strict=True))
        ids = [
            f"{leak['test']} in {leak['where']}"
            for leak in evidence.curation.get("leak_examples", [])[:3]
        ]
        text = f"the test split leaks: {told}" + (f"; {'; '.join(ids)}" if ids else "")
    yield RuleResult(total <= params.max_leaks, text, float(total), bound)


def complete(evidence: ModelEvidence, params: CompletenessParams) -> Iterator[RuleResult]:
    """Check that every metric of every system and mode is finite, or null where that is allowed."""
    places: dict[str, tuple[Metrics, tuple[str, ...]]] = {
        f"systems.{system}.{mode}": (
            evidence.found("systems", system, mode) or {},
            evidence.task.metrics,
        )
        for system in ("base", "adapter", evidence.offered)
        for mode in (MODES if evidence.has_documents else ("closed_book",))
    }
    for system in ("base", "adapter", evidence.offered):
        places[f"perplexity.{system}"] = (evidence.found("perplexity", system) or {}, _PERPLEXITIES)
    for pair in ("adapter-base", f"{evidence.offered}-base", f"{evidence.offered}-adapter"):
        places[f"comparisons.{pair}"] = (evidence.found("comparisons", pair) or {}, _COMPARED)
    if evidence.has_documents:
        places["retrieval"] = (evidence.found("retrieval") or {}, _RETRIEVAL_METRICS)
    bad = [
        f"{place}.{name}"
        for place, (found, names) in places.items()
        for name in names
        if not _sound(found, name, params)
    ]
    # Nothing that is lost anywhere goes unseen, whether a rule reads it or not.
    bad += [name for name in _lost(evidence.metrics) if name not in bad]
    total = sum(len(names) for _, names in places.values())
    text = f"all {total} metrics are there, and every number of evaluation is finite"
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        text = f"missing, null without leave, or not finite: {', '.join(bad[:3])}{more}"
    yield RuleResult(not bad, text, float(len(bad)), 0.0)


def _sound(found: Metrics, name: str, params: CompletenessParams) -> bool:
    value = found.get(name)
    if value is None:
        return name in found and name in params.may_be_null and bool(found.get(f"{name}_reason"))
    return is_number(value)


def _lost(metrics: Mapping[str, object]) -> list[str]:
    """Return the names of numbers that are NaN or infinite."""
    return [
        name
        for name, value in flatten(metrics).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def is_number(value: object) -> bool:
    """Return whether it is a finite number, which truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def same_records(evidence: ModelEvidence, _: RuleParams) -> Iterator[RuleResult]:
    """Check that every system was scored on the same records, once each, with finite scores."""
    names = ("base", "adapter", evidence.offered)
    found = {name: evidence.primary(name) for name in names}
    there = [one for one in found.values() if one is not None]
    sizes = {name: 0 if one is None else len(one.asked) for name, one in found.items()}
    same = len(there) == len(names) and len({one.asked for one in there}) == 1
    once = all(len({asked[0] for asked in one.asked}) == len(one.asked) for one in there)
    finite = all(bool(np.isfinite(one.score).all()) for one in there)
    passed = same and once and finite
    text = f"every system was scored on the same {sizes['base']} records in mode {evidence.mode}"
    if not passed:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        text = (
            f"systems were not scored on the same records in mode {evidence.mode}, once each with "
            f"finite scores: {counts}"
        )
    yield RuleResult(passed, text, float(sizes["base"]), 1.0)


def enough_records(evidence: ModelEvidence, params: PowerParams) -> Iterator[RuleResult]:
    """Check that the records could have shown a difference to the base of the size asked for."""
    bound = params.max_detectable
    pair = evidence.paired(evidence.system, "base")
    if pair is None:
        yield RuleResult(False, f"{evidence.system} and base cannot be paired", None, bound)
        return
    differences = pair[0] - pair[1]
    level = 1 - evidence.params.confidence
    shown = smallest_detectable(differences.tolist(), alpha=level, power=evidence.params.power)
    if shown.value is None:
        text = f"{evidence.system} against base in mode {evidence.mode}: {shown.reason}"
        yield RuleResult(False, f"{text}; such scores decide nothing", None, bound)
        return
    count = len(differences)
    text = (
        f"{count} records show a difference of {shown.value:.3f} {evidence.metric} "
        f"({evidence.params.power:.0%} power); at most {bound:.3f} is asked for"
    )
    if shown.value > bound:
        needed = math.ceil(count * (shown.value / bound) ** 2)
        text += f", which takes about {needed} records: raise evaluation.records, or take in more"
    yield RuleResult(shown.value <= bound, text, shown.value, bound)


def worn_records(evidence: ModelEvidence, params: WearParams) -> Iterator[RuleResult]:
    """Check that no test record has been decided on so often that it measures luck alone."""
    use, bound = evidence.use, params.max_decisions
    if use is None:
        yield nothing_to_ask("nobody counted how often the test records were decided on")
        return
    text, worn = f"{use.told}; at most {bound} are asked for", use.above(bound)
    if worn:
        text += (
            f": {worn} records are worn, since what passed so many decisions fits them by chance; "
            "change curation.salt, which chooses others"
        )
    yield RuleResult(not worn, text, float(use.most), float(bound))
