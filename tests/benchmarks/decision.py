"""A decision on 10,000 records, 10 slices and 10,000 resamples; SciPy's bootstrap beside its test.

`scipy` computes what the rule `not_worse` rests on, the bounds over all records and over each
slice, by `scipy.stats.bootstrap` at its defaults but for method and level; `scipy_batched` does so
in blocks as large as ours. The decision as a whole has no peer: its seconds are in `figures`.
"""

import argparse
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.promotion.decision import decide
from tasks.statistics.bootstrap import Bootstrap
from tasks.statistics.noninferiority import LossTest, Pairs
from tests.benchmarks._measurement import measure, print_result
from tests.builders.promotion_evidence import PARAMS, good_night

SLICES = 10
SEED = 11
_BLOCK_VALUES = 1_000_000


@dataclass(frozen=True)
class Losses:
    """Differences record by record, their slices, and how they are tested."""

    differences: NDArray[np.float64]
    labels: NDArray[np.int64]
    resamples: int

    def ours(self) -> list[float]:
        """The lower bound over all records, then over each slice."""
        test = LossTest(0.95, 0.8, Bootstrap(self.resamples, SEED))
        names = [str(label) for label in self.labels]
        pairs = Pairs(self.differences, np.ones(len(self.differences)), names)
        found = [test.whole(pairs, 0.1), *test.slices(pairs, 0.25).values()]
        return [item.interval.low for item in found]

    def theirs(self, *, batched: bool) -> list[float]:
        """The same by SciPy."""
        parts = [self.differences[self.labels == label] for label in range(SLICES)]
        return [self._bound(values, batched=batched) for values in (self.differences, *parts)]

    def _bound(self, values: NDArray[np.float64], *, batched: bool) -> float:
        found = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=self.resamples,
            batch=max(1, _BLOCK_VALUES // len(values)) if batched else None,
            vectorized=True,
            confidence_level=0.9,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
        return float(found.confidence_interval.low)


def make_losses(records: int, resamples: int) -> Losses:
    """Differences as two systems' F1s have them: most of them 0, others anything."""
    numbers = np.random.default_rng(SEED)
    moved = numbers.random(records) < 0.4
    differences = np.where(moved, np.clip(numbers.normal(0, 0.5, records), -1, 1), 0.0)
    return Losses(differences, np.arange(records) % SLICES, resamples)


def decision(folder: Path, records: int, resamples: int) -> Callable[[], object]:
    """What decides on a night of so many records, from its files; they are written now."""
    evidence = good_night(records=records, slices=SLICES).write(folder, "adapter")
    params = PARAMS.model_copy(update={"resamples": resamples})

    def run() -> object:
        found = decide(params, evidence, model="adapter")
        assert found.verdict == "promote"
        assert sum("/" in item.rule for item in found.reasons) == 2 * SLICES
        return found

    return run


def peak_megabytes(side: Callable[[], object]) -> int:
    """What one run takes at its peak, in megabytes; it is slow while this watches."""
    tracemalloc.start()
    side()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(peak / 1e6)


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 records, 2 repeats")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    options = parser.parse_args()
    records, repeats = (1000, 2) if options.quick else (10_000, 5)
    repeats = options.repeats or repeats
    resamples = 10_000
    losses = make_losses(records, resamples)
    peers = {
        "scipy": lambda: losses.theirs(batched=False),
        "scipy_batched": lambda: losses.theirs(batched=True),
    }
    seconds = measure(losses.ours, peers, repeats=repeats)
    apart = np.abs(np.subtract(losses.ours(), losses.theirs(batched=True)))
    with tempfile.TemporaryDirectory() as folder:
        run = decision(Path(folder), records, resamples)
        whole = measure(run, {}, repeats=repeats)["ours"]
        megabytes = {"decision": peak_megabytes(run), "ours": peak_megabytes(losses.ours)}
    megabytes |= {name: peak_megabytes(peer) for name, peer in peers.items()}
    figures = {
        "records": records,
        "slices": SLICES,
        "resamples": resamples,
        "decision_seconds": {
            "median": round(float(np.median(whole)), 3),
            "spread": [round(min(whole), 3), round(max(whole), 3)],
        },
        "bounds_differ_by": round(float(apart.max()), 5),
        "peak_megabytes": megabytes,
    }
    print_result("decision", seconds, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
