"""One side of the fine-tuning benchmark; it is run in a process of its own."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tasks.finetuning.adapter import make_trainable
from tasks.models.loading import LanguageModel, load_for_training, load_tokenizer, prepare_device
from tasks.models.manifest import ModelManifest
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch
from tasks.stage.params import ComputeParams, read_yaml
from tasks.training.loop import train
from tasks.training.trainer import training_arguments, validation_loss
from tests.benchmarks._finetuning_data import WORKLOADS, Workload, batches_of, settings
from tests.benchmarks._memory import most_megabytes
from tests.benchmarks._training import Clock, step_seconds, warm_up

OURS = ("ours", "ours_held")
TRL_TUNED = ("trl_grouped", "trl_packed")
TRL = ("trl_default", *TRL_TUNED)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(side: str, workload: Workload, place: Path) -> tuple[LanguageModel, Any]:
    """The quantised base and the model to train, with an adapter that the seed decides.

    Ours is loaded as a night loads it, TRL's as transformers does for its users: the same weights.
    """
    params = settings(workload.dtype)
    manifest, store = place / workload.base, place / workload.store
    if side in OURS:
        base = load_for_training(
            manifest,
            store,
            DEVICE,
            numeric_form="nf4_dequantized",
            dtype=workload.dtype,
            dequantized=side == "ours_held",
        )
    else:
        base = load_plainly(getattr(torch, workload.dtype), manifest, store)
    return base, make_trainable(base, params)


def load_plainly(dtype: torch.dtype, manifest: Path, store: Path) -> LanguageModel:
    """The base in NF4 with double quantisation, by transformers alone."""
    description = ModelManifest.read(manifest)
    folder = description.folder(store)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": DEVICE},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    )
    return LanguageModel(model, load_tokenizer(folder), description.digest)


def train_ours(model: Any, batches: list[Batch], scratch: Path) -> float:
    """Seconds of the optimizer steps of our training."""
    train(
        model, batches, batches[:1], summed_cross_entropy, settings(),
        scratch=scratch, identity="benchmark",
    )  # fmt: skip
    return step_seconds(scratch, batches, seed=settings().seed)


def train_trl(
    side: str, workload: Workload, base: LanguageModel, model: Any, batches: list[Batch], to: Path
) -> float:
    """Seconds of the optimizer steps of TRL's training."""
    from datasets import Dataset
    from trl import SFTTrainer

    clock = Clock()
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
    trainer = SFTTrainer(
        model,
        trl_arguments(side, workload, to, batches),
        train_dataset=rows,
        processing_class=base.tokenizer,
        callbacks=[clock],
    )
    if side in TRL_TUNED:
        # TRL casts the adapter of a 4-bit base to bfloat16, which is slow here and not our start.
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.to(getattr(torch, workload.dtype))
    warm_up(trainer, model)
    trainer.train()
    return clock.seconds


def trl_arguments(side: str, workload: Workload, to: Path, batches: list[Batch]) -> Any:
    """TRL's settings: its defaults, or its best with batches grouped by length or packed.

    Packed is free of padding, few examples a row: without flash attention a row is masked whole.
    With `pack_tokens` it is TRL's own packing into rows of so many, as many a step as hold the
    examples of ours. The optimizer, the schedule and the effective batch are ours.
    """
    from trl import SFTConfig

    params, examples = settings(), settings().batch_examples
    is_packed, rows = side == "trl_packed", workload.pack_tokens
    at_once = 4 if is_packed else 8
    tuned: dict[str, Any] = {
        "bf16": workload.dtype == "bfloat16",
        "gradient_checkpointing": False,
        "padding_free": is_packed,
    }
    steps = examples // at_once
    if is_packed and rows is not None:
        tuned |= {"packing": True, "max_length": rows}
        a_step = sum(batch.tokens for batch in batches) / len(batches)
        at_once, steps = 1, max(1, round(a_step / rows))
    arguments: dict[str, Any] = {"max_length": None} | (tuned if side in TRL_TUNED else {})
    return SFTConfig(
        output_dir=str(to),
        num_train_epochs=1,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=steps,
        train_sampling_strategy="group_by_length" if side == "trl_grouped" else "sequential",
        optim=training_arguments(params, to, len(batches), DEVICE).optim,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup_share,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_gradient_norm,
        seed=params.seed,
        completion_only_loss=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        use_cpu=DEVICE.type == "cpu",
        **arguments,
    )


def run_side(side: str, name: str, count: int, place: Path) -> dict[str, float]:
    """One side's seconds, memory and held-out loss on a workload whose base lies in `place`."""
    workload = WORKLOADS[name]
    prepare_device(ComputeParams.model_validate(read_yaml(Path("params/compute.yaml"))))
    batches = batches_of(workload, "train", count)
    held_out = batches_of(workload, "validation", workload.held_out)
    base, model = load(side, workload, place)
    with tempfile.TemporaryDirectory() as folder:
        if side in OURS:
            use_packed_attention(base.model)
            seconds = train_ours(model, batches, Path(folder))
        else:
            seconds = train_trl(side, workload, base, model, batches, Path(folder))
    on_device = DEVICE.type == "cuda"
    most = torch.cuda.max_memory_allocated() / 1e6 if on_device else most_megabytes()
    model.to(getattr(torch, workload.dtype))
    use_packed_attention(base.model)
    loss = validation_loss(model, held_out, summed_cross_entropy)
    tokens = sum(batch.tokens for batch in batches)
    return {"seconds": seconds, "megabytes": most, "loss": loss, "tokens": tokens}
