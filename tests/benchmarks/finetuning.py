"""QLoRA fine-tuning: ours and TRL's SFTTrainer, on the same examples from the same adapter.

Two workloads out of the last night's tokens: `short`, closed-book questions that share a prompt,
and `mixed`, questions with passages of which no two share any. TRL runs at its defaults (bfloat16,
activation checkpointing) and at its best (float32, none of it), grouped by length or with padding-
free batches, whichever is faster. All have the same examples in the same batches and order (but
for the grouping), the same optimizer, schedule and loss; seconds are those of the optimizer steps.
Every run is a process of its own, and its memory the most that the process held.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback

from tasks.finetuning.adapter import load_for_training, make_trainable
from tasks.finetuning.params import FinetuningParams
from tasks.lm.attention import use_packed_attention
from tasks.lm.batches import Batch, make_batches
from tasks.lm.examples import Example, read_examples
from tasks.lm.losses import summed_cross_entropy
from tasks.lm.models import LanguageModel, decoder_linears, load_base, prepare_device
from tasks.lm.trainer import validation_loss
from tasks.lm.training import train
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams, read_yaml
from tests.benchmarks._measurement import print_result
from tests.benchmarks._memory import most_megabytes

BASE, STORE, TOKENS = Path("data/models/base.json"), Path(".nightloom/models"), Path("data/tokens")
OURS = ("ours", "ours_held")
TRL = ("trl_default", "trl_grouped", "trl_packed")
BATCH_EXAMPLES = 16
HELD_OUT = 24
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def settings(dtype: str = "float32") -> FinetuningParams:
    """The project's own params, in one epoch with one evaluation."""
    params = FinetuningParams.model_validate(read_yaml(Path("params/finetuning.yaml")))
    return params.model_copy(
        update={"batch_examples": BATCH_EXAMPLES, "evaluations": 1, "dtype": dtype}
    )


def choose(workload: str, split: str, count: int) -> list[Example]:
    """Examples of a workload, at most one of a context; always the same."""
    variant = "closed_book" if workload == "short" else "passages"
    chosen: dict[str, Example] = {}
    for example in read_examples(TOKENS / f"{split}.parquet"):
        if example.variant == variant:
            chosen.setdefault(example.context, example)
    found = [chosen[context] for context in sorted(chosen)][:count]
    if len(found) < count:
        raise ConfigError(
            f"{TOKENS}/{split}.parquet holds {len(found)} examples for {workload}, {count} needed",
            "run a night with the default data first",
        )
    return found


def batches_of(examples: list[Example]) -> list[Batch]:
    """Batches in the order in which everybody learns from them."""
    compute = ComputeParams.model_validate(read_yaml(Path("params/compute.yaml")))
    return make_batches(examples, settings(), max_tokens=compute.micro_batch_tokens)


def load(side: str) -> tuple[LanguageModel, Any]:
    """The quantised base and the model to train, with an adapter that the seed decides."""
    params = settings("bfloat16" if side == "trl_default" else "float32")
    base = load_for_training(
        params,
        BASE,
        STORE,
        DEVICE,
        numeric_form="nf4_dequantized",
        dequantized=side == "ours_held",
    )
    return base, make_trainable(base, params)


def train_ours(model: Any, batches: list[Batch], scratch: Path) -> float:
    """Seconds of the optimizer steps of our training."""
    train(
        model, batches, batches[:1], summed_cross_entropy, settings(),
        scratch=scratch, identity="benchmark",
    )  # fmt: skip
    points = map(json.loads, (scratch / "curves.jsonl").read_text().splitlines())
    speeds = [point["value"] for point in points if point["name"] == "tokens_per_second"]
    return sum(batch.tokens / speed for batch, speed in zip(batches, speeds, strict=True))


class _Clock(TrainerCallback):
    """Adds up the seconds of the optimizer steps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.perf_counter() - self._begun


def train_trl(side: str, base: LanguageModel, model: Any, batches: list[Batch], to: Path) -> float:
    """Seconds of the optimizer steps of TRL's training."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    params, clock = settings(), _Clock()
    examples = [example for batch in batches for example in batch.examples]
    rows = Dataset.from_list(
        [
            {
                "input_ids": list(example.token_ids),
                "completion_mask": [0] * example.prompt_length + [1] * example.supervised,
            }
            for example in examples
        ]
    )
    is_default = side == "trl_default"
    arguments = SFTConfig(
        output_dir=str(to),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH_EXAMPLES if side == "trl_packed" else 8,
        gradient_accumulation_steps=1 if side == "trl_packed" else BATCH_EXAMPLES // 8,
        train_sampling_strategy="group_by_length" if side == "trl_grouped" else "sequential",
        padding_free=side == "trl_packed",
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup_share,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_gradient_norm,
        seed=params.seed,
        max_length=None,
        completion_only_loss=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=DEVICE.type == "cpu",
        **({} if is_default else {"bf16": False, "gradient_checkpointing": False}),
    )
    trainer = SFTTrainer(
        model, arguments, train_dataset=rows, processing_class=base.tokenizer, callbacks=[clock]
    )
    trainer.train()
    return clock.seconds


def run_side(side: str, workload: str, count: int) -> None:
    """Run one side and print its seconds, its memory and its held-out loss."""
    compute = ComputeParams.model_validate(read_yaml(Path("params/compute.yaml")))
    prepare_device(compute)
    batches = batches_of(choose(workload, "train", count))
    held_out = batches_of(choose(workload, "validation", HELD_OUT))
    base, model = load(side)
    with tempfile.TemporaryDirectory() as folder:
        if side in OURS:
            use_packed_attention(base.model)
            seconds = train_ours(model, batches, Path(folder))
        else:
            seconds = train_trl(side, base, model, batches, Path(folder))
    megabytes = most_megabytes()
    model.to(torch.float32)
    use_packed_attention(base.model)
    loss = validation_loss(model, held_out, summed_cross_entropy)
    tokens = sum(batch.tokens for batch in batches)
    found = {"seconds": seconds, "megabytes": megabytes, "loss": loss, "tokens": tokens}
    print(json.dumps(found))


def measured(side: str, workload: str, count: int) -> dict[str, float]:
    """What a process of its own finds for one side."""
    command = [sys.executable, "-m", "tests.benchmarks.finetuning"]
    command += ["--side", side, workload, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(workload, side, found, flush=True)
    return found


def floor_seconds(batches: list[Batch], base: LanguageModel) -> float:
    """Seconds that the multiplications alone take at the rate of the model's own shapes.

    A trained adapter needs, for each token, two multiplications by each weight: forward, and the
    gradient of the activations; the vocabulary head only where a token is learned. What is left
    out (the adapter, attention, dequantising, norms) makes this a floor.
    """
    layers = [layer for _, layer in decoder_linears(base.model)]
    seconds = 0.0
    for rows, weights in (
        (sum(batch.computed_tokens for batch in batches), [layer.weight for layer in layers]),
        (sum(batch.supervised for batch in batches), [base.model.lm_head.weight]),
    ):
        flops = sum(4 * rows * weight.numel() for weight in weights)
        seconds += flops / _rate(max(weights, key=lambda weight: weight.numel()))
    return seconds


def _rate(weight: torch.Tensor) -> float:
    """The operations a second of multiplying 768 rows by a weight, the best of ten."""
    rows, held = torch.randn(768, weight.shape[1]), weight.detach().float()
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        torch.nn.functional.linear(rows, held)
        best = min(best, time.perf_counter() - begun)
    return 2 * 768 * weight.numel() / best


def summarize(runs: dict[str, list[dict[str, float]]], batches: list[Batch]) -> dict[str, Any]:
    """The figures of one workload."""
    base = load_base(BASE, STORE, numeric_form="float", device=torch.device("cpu"))
    floor = floor_seconds(batches, base)
    seconds = {side: median(run["seconds"] for run in found) for side, found in runs.items()}
    losses = {side: found[-1]["loss"] for side, found in runs.items()}
    best_trl = min(TRL[1:], key=lambda side: seconds[side])
    return {
        "useful_tokens_per_second": {
            side: round(runs[side][0]["tokens"] / value, 1) for side, value in seconds.items()
        },
        "ratios": {
            f"{side}_over_{peer}": round(seconds[source] / seconds[side], 3)
            for side in OURS
            for peer, source in (("trl_default", "trl_default"), ("trl_tuned", best_trl))
        },
        "trl_tuned_is": best_trl,
        "ceiling_tokens_per_second": round(runs["ours"][0]["tokens"] / floor, 1),
        "share_of_ceiling": {side: round(floor / seconds[side], 3) for side in OURS},
        "held_out_loss": {side: round(value, 5) for side, value in losses.items()},
        "loss_differs_by": {
            side: round(abs(value / losses["ours"] - 1), 5) for side, value in losses.items()
        },
        "megabytes": {
            side: round(max(run["megabytes"] for run in found)) for side, found in runs.items()
        },
    }


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 examples, 1 repeat")
    parser.add_argument("--repeats", type=int, help="repeats, instead of 5")
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side[0], options.side[1], int(options.side[2]))
        return 0
    repeats = options.repeats or (1 if options.quick else 5)
    counts = {"short": 16, "mixed": 16} if options.quick else {"short": 64, "mixed": 32}
    figures: dict[str, Any] = {"device": str(DEVICE), "repeats": repeats}
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for workload, count in counts.items():
        runs[workload] = {side: [] for side in OURS + TRL}
        for _ in range(repeats):
            for side in OURS + TRL:
                runs[workload][side].append(measured(side, workload, count))
        figures[workload] = summarize(runs[workload], batches_of(choose(workload, "train", count)))
    short = {side: [run["seconds"] for run in found] for side, found in runs["short"].items()}
    tuned = figures["short"]["trl_tuned_is"]
    seconds = {
        "ours": short["ours"],
        "trl_default": short["trl_default"],
        "trl_tuned": short[tuned],
    }
    print_result("finetuning", seconds, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
