"""How often a release's measurement of speed refuses: a good model never, a slow one always.

The bundle's adapter is judged by the rule `latency` beside its base: as it is, as it is while four
other processes keep the cores busy, and made twice as slow (each pass through the model is done
twice). A judgement takes as many rounds as a release needs at least, so this is the worst case.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tasks.promotion.params import LatencyParams, Params
from tasks.promotion.rules.resources import slower_than_base
from tasks.promotion.speed import LEAST_ROUNDS, Speed
from tasks.serving.speed import (
    Bootstrapping,
    Contestant,
    load_contestants,
    speed_of,
    take_turns,
    wait_without_spinning,
)
from tasks.stage.params import load_params
from tests.benchmarks._measurement import print_result

_BUSY = "while True: sum(range(1000))"
_KINDS = ("idle", "busy", "slow")


@dataclass(frozen=True)
class Judged:
    """One judgement: its outcome, the ratios by clock and by cores, and the turns' seconds."""

    outcome: str
    speed: Speed

    def ratio(self, what: str) -> list[float]:
        """The ratio to the base with its bounds."""
        found = getattr(self.speed.over_base["adapter"], what)
        return [round(number, 2) for number in (found.value, found.low, found.high)]


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let other processes compute meanwhile."""
    children = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


def judge(
    contestants: Mapping[str, Contestant],
    params: LatencyParams,
    drawing: Bootstrapping,
    *,
    rounds: int,
    seconds: float,
) -> Judged:
    """What the rule says after one measurement."""
    found = take_turns(contestants, most_rounds=rounds, most_seconds=seconds)
    speed = Speed.model_validate_json(speed_of(contestants, found, drawing, "0" * 64))
    results = list(slower_than_base(speed, "adapter", params))
    refused = any(not one.holds and not one.mild for one in results)
    warned = not all(one.holds for one in results)
    return Judged("refused" if refused else "warned" if warned else "passed", speed)


def main() -> None:
    """Judge in turns: idle, busy, slow, so that all three meet the same minutes."""
    options = _parser().parse_args()
    wait_without_spinning()
    # Deferred: it imports torch, which reads then how its threads shall wait.
    from tests.builders.slow_model import with_more_passes

    promotion = load_params(Params, [Path("params/promotion.yaml")]).promotion
    drawing = Bootstrapping(promotion.confidence, promotion.resamples, promotion.seed)
    good = load_contestants(options.bundle, options.store, ["adapter"])
    slow = Contestant(with_more_passes(good["adapter"].model, 2), good["adapter"].prompts)
    found: dict[str, list[Judged]] = {name: [] for name in _KINDS}
    loads: dict[str, list[float]] = {name: [] for name in _KINDS}
    started = time.perf_counter()
    for number in range(1 if options.quick else options.judgements):
        for name in _KINDS:
            contestants = good | {"adapter": slow} if name == "slow" else good
            with busy_processes(4) if name == "busy" else nullcontext():
                one = judge(
                    contestants,
                    promotion.rules.latency,
                    drawing,
                    rounds=options.rounds,
                    seconds=options.seconds,
                )
            found[name].append(one)
            loads[name].append(os.getloadavg()[0])
            told = f"{one.outcome}, clock {one.ratio('seconds')}, cores {one.ratio('cpu_seconds')}"
            took = time.perf_counter() - started
            print(f"{number + 1} {name}: {told}; {took:.0f} s", file=sys.stderr, flush=True)
    _print(found, loads)


def _print(found: Mapping[str, list[Judged]], loads: Mapping[str, list[float]]) -> None:
    def seconds(name: str, system: str) -> list[float]:
        return [turn[system].seconds for one in found[name] for turn in one.speed.rounds]

    print_result(
        "speed",
        {"ours": seconds("idle", "adapter"), "base": seconds("idle", "base")},
        {
            "outcomes": {
                name: Counter(one.outcome for one in all_) for name, all_ in found.items()
            },
            "false_refusals": sum(
                one.outcome == "refused" for name in ("idle", "busy") for one in found[name]
            ),
            "slow_refused": sum(one.outcome == "refused" for one in found["slow"]),
            "clock": {name: [one.ratio("seconds") for one in all_] for name, all_ in found.items()},
            "cores": {
                name: [one.ratio("cpu_seconds") for one in all_] for name, all_ in found.items()
            },
            "load_average": {name: [round(one, 1) for one in all_] for name, all_ in loads.items()},
        },
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one judgement of each kind")
    parser.add_argument("--judgements", type=int, default=20, help="of each kind (%(default)s)")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help="each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most (%(default)s)")
    parser.add_argument("--bundle", type=Path, default=Path("data/bundle"))
    parser.add_argument("--store", type=Path, default=Path(".nightloom/models"))
    return parser


if __name__ == "__main__":
    main()
