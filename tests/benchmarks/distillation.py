"""Distillation: ours and TRL's GKDTrainer, a cached teacher and one that runs along, and memory.

All on the first examples that a night would learn from, in the same batches and order,
from the same teacher, with KL(teacher || student) at temperature 1 as the loss. TRL runs offline
(`lmbda=0`, `seq_kd=False`) in float32 without activation checkpointing, its fastest here. The
cached teacher's seconds hold the making of its memo; it is compared over three epochs where student
and teacher share one base, as is the memory of that with QLoRA fine-tuning alone. Every run is a
process of its own; without a GPU, `--quick` makes them forks of one that has imported all.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks._apart import Apart
from tests.benchmarks._distillation_side import run_side
from tests.benchmarks._measurement import print_result

_EPOCHS = 3
_ONCE_RUN = ("datasets", "peft", "trl.experimental.gkd")
_ONCE_RUN += ("transformers.models.llama.modeling_llama",)  # imported once a side runs
# Multiplications of each layer's weights by each token: forward; and backward, for activations
# alone where an adapter learns, for weights as well where all do.
_FORWARD, _ADAPTER_BACKWARD, _FULL_BACKWARD = 1, 1, 2


def ceiling(run: dict[str, float], backward: int) -> float:
    """How much faster a cached teacher can be, by the products of its layers' weights alone."""
    teacher = run["teacher_layers"] * _FORWARD
    student = run["layers"] * (_FORWARD + backward)
    return _EPOCHS * (teacher + student) / (teacher + _EPOCHS * student)


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1,000 tokens, 1 repeat")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where a night's data lies")
    options = parser.parse_args()
    repeats = options.repeats or (1 if options.quick else 5)
    tokens = 1000 if options.quick else 4000
    epochs = {"ours": 1, "trl_gkd": 1, "online": _EPOCHS, "cached": _EPOCHS, "qlora": 1}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in epochs}
    apart = Apart(*_ONCE_RUN, forked=options.quick and not torch.cuda.is_available())
    for _ in range(repeats):
        for side, count in epochs.items():
            runs[side].append(apart(run_side, side, options.workspace, tokens, count))
            print(side, runs[side][-1], flush=True)
    print_result("distillation", *told(runs))
    return 0


def told(
    runs: dict[str, list[dict[str, float]]],
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds to compare, and the figures beside them.

    `ours` is held against GKDTrainer; the online teacher's seconds are scaled to that comparison,
    so that its ratio is the one to the cached teacher.
    """
    seconds = {side: [run["seconds"] for run in found] for side, found in runs.items()}
    shown = {
        "ours": seconds["ours"],
        "trl_gkd": seconds["trl_gkd"],
        "online_teacher": [
            own * online / cached
            for own, online, cached in zip(
                seconds["ours"], seconds["online"], seconds["cached"], strict=True
            )
        ],
    }
    divergence = {
        side: median(run["divergence"] for run in found)
        for side, found in runs.items()
        if "divergence" in found[0]
    }
    megabytes = {side: max(run["megabytes"] for run in found) for side, found in runs.items()}
    figures = {
        "repeats": len(seconds["ours"]),
        "useful_tokens_per_second": {
            side: round(median(run["tokens"] / run["seconds"] for run in found), 1)
            for side, found in runs.items()
            if "tokens" in found[0]
        },
        "cached_ceiling": {
            "shared": round(ceiling(runs["ours"][0], _ADAPTER_BACKWARD), 3),
            "full": round(ceiling(runs["ours"][0], _FULL_BACKWARD), 3),
        },
        "divergence": {"before": round(runs["ours"][0]["divergence_before"], 5)}
        | {side: round(value, 5) for side, value in divergence.items()},
        "divergence_differs_by": {
            "trl_gkd": round(abs(divergence["trl_gkd"] / divergence["ours"] - 1), 5),
            "cached": round(abs(divergence["cached"] / divergence["online"] - 1), 5),
        },
        "megabytes": {side: round(value) for side, value in megabytes.items()},
        "shared_over_qlora_memory": round(megabytes["online"] / megabytes["qlora"], 3),
    }
    return shown, figures


if __name__ == "__main__":
    sys.exit(main())
