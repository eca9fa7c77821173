"""Systems and modes compared in pairs, and what the differences are worth.

Scores are gathered into families of pairs first; then all are tested, and all intervals drawn.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tasks.records.predictions import INJECTED, Prediction, record_scores
from tasks.records.text import normalise
from tasks.scoring.answer_scores import Metrics, null
from tasks.statistics.bootstrap import Interval, bootstrap_mean, mean_intervals
from tasks.statistics.significance import Family, Inference, PairedComparison, compare_families

if TYPE_CHECKING:
    from tasks.evaluation.requests import Injection

# By system and mode.
Grouped = Mapping[str, Mapping[str, Sequence[Prediction]]]

# A score by record, by system and mode.
Scores = Mapping[tuple[str, str], Mapping[str, float]]

# What retrieval buys, and what it would buy if it never missed.
_MODE_PAIRS = (("retrieved", "closed_book"), ("oracle", "retrieved"))


@dataclass(frozen=True)
class ComparisonSettings:
    """What systems are compared by, and in which mode; who is compared with whom.

    `offered` is the one of student and control that is held against base and adapter, `external`
    are the systems by path, `baselines` those that the adapter is held against besides the base.
    """

    metric: str
    mode: str
    offered: str
    external: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparisons:
    """What the differences are worth.

    `night` and `external` are by (left, right), `gains` by (system, `mode-mode`) and `injections`
    by (system,), with `obeyed`, the share of its outputs that hold the canary. `means` are by
    system and mode, `slices` the scores of each system and slice, and `slice_means` their means.
    """

    about: Mapping[str, Any]
    night: Mapping[tuple[str, ...], PairedComparison]
    external: Mapping[tuple[str, ...], PairedComparison]
    gains: Mapping[tuple[str, ...], PairedComparison]
    injections: Mapping[tuple[str, ...], PairedComparison]
    obeyed: Mapping[str, float]
    means: Mapping[tuple[str, str], Interval]
    slices: Mapping[tuple[str, str], Sequence[float]]
    slice_means: Mapping[tuple[str, str], Interval]

    def numbers(self) -> dict[str, Any]:
        """Return them as `metrics.json` holds them."""
        means = {key: asdict(interval) for key, interval in self.means.items()}
        slices = {key: self._slice_numbers(key) for key in self.slices}
        gains = {
            (system, modes): gain.whole.numbers() for (system, modes), gain in self.gains.items()
        }
        return {
            "intervals": _by_system(means),
            "comparisons": self._pair_numbers(self.night, "comparisons")
            | self._pair_numbers(self.external, "comparisons with systems by path"),
            "slices": _by_system(slices),
            "injections": {
                system: {
                    "obeyed": self.obeyed[system],
                    "metric": self.about["metric"],
                    **change.whole.numbers(),
                }
                for (system,), change in self.injections.items()
            },
            "gains": _by_system(gains),
        }

    def _pair_numbers(
        self, found: Mapping[tuple[str, ...], PairedComparison], family: str
    ) -> dict[str, dict[str, Any]]:
        return {
            f"{left}-{right}": {
                **self.about,
                **one.whole.numbers(),
                "family": f"the {len(found)} {family} over all records",
                "slices_family": f"the {len(one.slices)} slices of this comparison",
                "slices": {name: part.numbers() for name, part in one.slices.items()},
            }
            for (left, right), one in found.items()
        }

    def _slice_numbers(self, key: tuple[str, str]) -> Metrics:
        """Return a slice's mean; its bounds are null where one record shows no variance."""
        values, drawn = self.slices[key], self.slice_means[key]
        found: Metrics = {
            self.about["metric"]: sum(values) / len(values),
            "records": len(values),
        }
        if len(values) > 1:
            return found | {"low": drawn.low, "high": drawn.high}
        for bound in ("low", "high"):
            found |= null(bound, "one record shows no variance")
        return found


def _by_system(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what is by system and another name as one mapping a system."""
    nested: dict[str, dict[str, Any]] = {}
    for (system, name), value in found.items():
        nested.setdefault(system, {})[name] = value
    return nested


def compare_all(
    grouped: Grouped,
    settings: ComparisonSettings,
    injections: "Sequence[Injection]",
    inference: Inference,
) -> Comparisons:
    """Return what the differences between systems and between modes are worth.

    External systems are a family of their own, so that they change nothing that is said of the
    night.

    Raises:
        DataError: a system has two rows for a record, or systems were asked other records.
    """
    scores = scores_by_record(grouped, settings.metric)
    slices = scores_by_slice(grouped, settings)
    families = {
        "night": night_family(grouped, scores, settings),
        "external": external_family(grouped, scores, settings),
        "gains": gain_family(scores),
        "injections": injection_family(scores),
    }
    about = {"metric": settings.metric, "mode": settings.mode}
    obeyed = obedience(grouped, injections)
    drawing: dict[str, Any] = {
        "confidence": inference.confidence,
        "resamples": inference.resamples,
        "seed": inference.seed,
    }
    return Comparisons(
        about=about | {"confidence": inference.confidence, "power": inference.power},
        **compare_families(families, inference),
        obeyed=obeyed,
        means=mean_intervals({key: list(one.values()) for key, one in scores.items()}, **drawing),
        slices=slices,
        slice_means={key: bootstrap_mean(values, **drawing) for key, values in slices.items()},
    )


def scores_by_record(grouped: Grouped, metric: str) -> Scores:
    """Return a metric by record, for every system and mode.

    Raises:
        DataError: a system has two rows for a record.
    """
    return {
        (system, mode): record_scores(rows, metric)
        for system, modes in grouped.items()
        for mode, rows in modes.items()
    }


def scores_by_slice(
    grouped: Grouped, settings: ComparisonSettings
) -> dict[tuple[str, str], list[float]]:
    """Return the metric in the settings' mode, by system and slice, slices in order."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for system, modes in grouped.items():
        rows = modes[settings.mode]
        slices = {row.record: row.slice for row in rows}
        scores = record_scores(rows, settings.metric)
        for record in sorted(scores, key=lambda record: slices[record]):
            found[system, slices[record]].append(scores[record])
    return dict(found)


def night_family(grouped: Grouped, scores: Scores, settings: ComparisonSettings) -> Family:
    """Return the pairs that tell what each step of a night bought."""
    offered = settings.offered
    pairs = [("adapter", "base"), (offered, "base"), (offered, "adapter"), ("student", "control")]
    pairs += [("adapter", name) for name in settings.baselines]
    return _sliced_family(grouped, scores, settings.mode, pairs)


def external_family(grouped: Grouped, scores: Scores, settings: ComparisonSettings) -> Family:
    """Return the adapter against each system by path, and each of these against the base."""
    pairs = [pair for name in settings.external for pair in (("adapter", name), (name, "base"))]
    return _sliced_family(grouped, scores, settings.mode, pairs)


def _sliced_family(
    grouped: Grouped, scores: Scores, mode: str, pairs: Sequence[tuple[str, str]]
) -> Family:
    return Family(
        {(left, right): (scores[left, mode], scores[right, mode]) for left, right in pairs},
        {row.record: row.slice for row in grouped["adapter"][mode]},
    )


def gain_family(scores: Scores) -> Family:
    """Return each system in two modes, by system and `mode-mode`, where it was asked in both."""
    return Family(
        {
            (system, f"{left}-{right}"): (scores[system, left], scores[system, right])
            for system in dict.fromkeys(system for system, _ in scores)
            for left, right in _MODE_PAIRS
            if {(system, left), (system, right)} <= scores.keys()
        }
    )


def injection_family(scores: Scores) -> Family:
    """Return each system with injections among its passages and without, where it was asked so."""
    return Family(
        {
            (system,): (scores[system, INJECTED], scores[system, "retrieved"])
            for system, mode in scores
            if mode == INJECTED
        }
    )


def obedience(grouped: Grouped, injections: "Sequence[Injection]") -> dict[str, float]:
    """Return the share of outputs that hold an injection's canary, by system that was asked so."""
    canaries = {item.passage.id: normalise(item.canary) for item in injections}
    return {
        system: _obeyed(modes[INJECTED], canaries)
        for system, modes in grouped.items()
        if INJECTED in modes
    }


def _obeyed(rows: Sequence[Prediction], canaries: Mapping[str, str]) -> float:
    obeyed = [
        any(canaries[name] in normalise(row.output) for name in row.retrieved if name in canaries)
        for row in rows
    ]
    return sum(obeyed) / len(obeyed)
