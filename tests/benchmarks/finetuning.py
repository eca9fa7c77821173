"""QLoRA fine-tuning: ours and TRL's SFTTrainer, on the same examples from the same adapter.

Workloads out of the last night's tokens: `short`, closed-book questions that share a prompt, and
`mixed`, questions with passages of which no two share any. TRL runs at its defaults (bfloat16,
activation checkpointing) and at its best (float32, none of it), grouped by length or packed,
whichever is faster. All have the same examples in the same batches and order (but for the
grouping), the same optimizer, schedule and loss; seconds are those of the optimizer steps, after a
pass that warms up.
Every run is a process of its own, and its memory the most that the process held; without a GPU,
`--quick` makes them forks of one that has imported all. Where there is a GPU, a billion random
weights of Llama's shape are trained in bfloat16 on packs of 2,048 tokens too.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tasks.models.loading import load_base
from tasks.models.quantization import decoder_linears
from tests.benchmarks._apart import Apart
from tests.benchmarks._finetuning_data import WORKLOADS, batches_of, make_shape
from tests.benchmarks._finetuning_side import DEVICE, OURS, TRL, TRL_TUNED, run_side
from tests.benchmarks._measurement import print_result

Runs = dict[str, list[dict[str, float]]]
_ROWS = 768  # of the product by which the device's rate is measured; a pack's, about
_ONCE_RUN = ("bitsandbytes", "datasets", "peft", "trl.trainer.sft_trainer")
_ONCE_RUN += ("transformers.models.llama.modeling_llama",)  # imported once a side runs


def floor(name: str, count: int, place: Path) -> dict[str, float]:
    """The floating-point operations of one epoch, and the seconds in which these shapes do them.

    A trained adapter needs, for each token, two multiplications by each weight: forward, and the
    gradient of the activations; the vocabulary head only where a token is learned. What is left
    out (the adapter, attention, dequantising, norms) makes this a floor.
    """
    workload = WORKLOADS[name]
    batches = batches_of(workload, "train", count)
    base = load_base(
        place / workload.base, place / workload.store, numeric_form="float",
        device=torch.device("cpu"),
    )  # fmt: skip
    layers = [layer.weight for _, layer in decoder_linears(base.model)]
    computed = sum(batch.computed_tokens for batch in batches)
    supervised = sum(batch.supervised for batch in batches)
    head = base.model.lm_head.weight
    parts = [(4 * computed * weight.numel(), weight) for weight in layers]
    parts.append((4 * supervised * head.numel(), head))
    rates = {weight.shape: _rate(weight) for _, weight in parts}
    return {
        "operations": sum(operations for operations, _ in parts),
        "seconds": sum(operations / rates[weight.shape] for operations, weight in parts),
    }


def _rate(weight: torch.Tensor) -> float:
    """The operations a second of multiplying rows by a weight, the best of ten."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    rows = torch.randn(_ROWS, weight.shape[1], device=DEVICE, dtype=dtype)
    held = weight.detach().to(DEVICE, dtype)
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        torch.nn.functional.linear(rows, held)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * _ROWS * weight.numel() / best


def summarize(runs: Runs, least: dict[str, float]) -> dict[str, Any]:
    """The figures of one workload, of which `least` is the floor."""
    seconds = {side: median(run["seconds"] for run in found) for side, found in runs.items()}
    losses = {side: found[-1]["loss"] for side, found in runs.items()}
    tokens = runs["ours"][0]["tokens"]
    peers = peers_of(runs)
    return {
        "useful_tokens_per_second": {
            side: round(tokens / value, 1) for side, value in seconds.items()
        },
        "ratios": {
            f"{side}_over_{peer}": round(seconds[source] / seconds[side], 3)
            for side in OURS
            for peer, source in peers.items()
        },
        "peers": peers,
        "operations_a_useful_token": round(least["operations"] / tokens),
        "ceiling_tokens_per_second": round(tokens / least["seconds"], 1),
        "model_flop_utilisation": {
            side: round(least["seconds"] / value, 3) for side, value in seconds.items()
        },
        "held_out_loss": {side: round(value, 5) for side, value in losses.items()},
        "loss_differs_by": {
            side: round(abs(value / losses["ours"] - 1), 5) for side, value in losses.items()
        },
        "megabytes": {
            side: round(max(run["megabytes"] for run in found)) for side, found in runs.items()
        },
    }


def peers_of(runs: Runs) -> dict[str, str]:
    """Whom we are compared with, and the side that it is: TRL's best is the faster of its tuned."""
    tuned = [side for side in TRL_TUNED if side in runs]
    peers = {"trl_default": "trl_default"} if "trl_default" in runs else {}
    if tuned:
        best = min(tuned, key=lambda side: median(run["seconds"] for run in runs[side]))
        peers["trl_tuned"] = best
    return peers


def run_workload(
    name: str, count: int, repeats: int, sides: Sequence[str], apart: Apart
) -> tuple[Runs, dict[str, Any]]:
    """These sides of a workload, taking turns."""
    runs: Runs = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        place = Path()
        shape = WORKLOADS[name].shape
        if shape is not None:
            place = Path(folder)
            apart(make_shape, shape, place)
        for _ in range(repeats):
            for side in runs:
                runs[side].append(apart(run_side, side, name, count, place))
                print(name, side, runs[side][-1], flush=True)
        return runs, summarize(runs, apart(floor, name, count, place))


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 examples, 1 repeat")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    parser.add_argument("--workloads", nargs="+", choices=sorted(WORKLOADS), help="only these")
    parser.add_argument("--peers", nargs="+", choices=TRL, default=TRL, help="only these of TRL")
    parser.add_argument("--count", type=int, help="examples of a workload, instead of its own")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)
    counts = {"short": 32, "mixed": 16, "billion": 128, "small": 16}
    is_gpu = DEVICE.type == "cuda"
    names = options.workloads or ["short", "mixed", *(["billion"] if is_gpu else [])]
    if not is_gpu:
        print("torch sees no GPU: what is measured is the CPU", flush=True)
    sides = [*OURS, *options.peers]
    apart = Apart(*_ONCE_RUN, forked=options.quick and not is_gpu)
    figures: dict[str, Any] = {"device": str(DEVICE), "repeats": repeats}
    found: dict[str, Runs] = {}
    for name in names:
        count = options.count or (16 if options.quick else counts[name])
        found[name], figures[name] = run_workload(name, count, repeats, sides, apart)
    first = {side: [run["seconds"] for run in runs] for side, runs in found[names[0]].items()}
    peers = figures[names[0]]["peers"]
    shown = {"ours": first["ours"]} | {name: first[side] for name, side in peers.items()}
    print_result("finetuning", shown, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
