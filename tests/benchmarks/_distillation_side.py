"""One side of the distillation benchmark; it is run in a process of its own."""

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tasks.distillation.held_out import bootstrap, held_out_interval, score_held_out
from tasks.distillation.objective import distillation_loss
from tasks.distillation.params import DistillationParams
from tasks.distillation.pruning import StudentPlan, block_influence, choose_layers
from tasks.distillation.students import (
    FullStudents,
    SharedStudents,
    Students,
    unwrapped_model,
    vocabulary,
)
from tasks.distillation.teacher import CachedTeacher, MemoKey, OnlineTeacher
from tasks.finetuning.adapter import make_trainable
from tasks.finetuning.params import FinetuningParams
from tasks.models.loading import load_adapted, load_base, load_for_training, prepare_device
from tasks.prompting.files import PROMPT
from tasks.sequences.attention import use_packed_attention
from tasks.sequences.examples import read_examples
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch
from tasks.stage.params import ComputeParams, ModelsParams, StageParams, read_yaml
from tasks.training.batches import choose_examples, make_batches
from tasks.training.loop import train
from tasks.training.params import TrainingParams
from tests.benchmarks._memory import most_megabytes
from tests.benchmarks._training import Clock, step_seconds, warm_up

_STORE = Path(".nightloom/models")
_LAYERS_KEPT = 0.8
_HELD_OUT = 24
_EXAMPLES_A_STEP = 4
P = TypeVar("P", bound=StageParams)


def settings(workspace: Path, epochs: int) -> DistillationParams:
    """A workspace's own params, with KL(teacher || student) at temperature 1 as the objective."""
    objective = read_yaml(workspace / "params" / "distillation.yaml")["objective"]
    weights = dict.fromkeys(("reverse_kl", "jensen_shannon", "cross_entropy"), 0.0)
    changes = {
        "objective": objective | weights | {"forward_kl": 1.0, "temperature": 1.0},
        "epochs": epochs,
        "evaluations": 1,
        "batch_examples": _EXAMPLES_A_STEP,
    }
    return _params(workspace, "distillation", DistillationParams, changes)


def _params(workspace: Path, name: str, kind: type[P], changes: Mapping[str, Any]) -> P:
    return kind.model_validate(read_yaml(workspace / "params" / f"{name}.yaml") | changes)


def _compute(workspace: Path) -> ComputeParams:
    return _params(workspace, "compute", ComputeParams, {})


def _models(workspace: Path) -> ModelsParams:
    return _params(workspace, "models", ModelsParams, {})


def material(
    workspace: Path, tokens: int, params: TrainingParams
) -> tuple[list[Batch], list[Batch]]:
    """The first batches that a night would learn from, and some that it holds out."""
    folder = workspace / "data" / "tokens"
    train_split, held_out = (
        read_examples(folder / f"{split}.parquet") for split in ("train", "validation")
    )
    chosen = choose_examples(train_split, token_budget=tokens, new_share=0.5, seed=0)
    size = _compute(workspace).micro_batch_tokens
    return (
        make_batches(chosen, params, max_tokens=size),
        make_batches(held_out[:_HELD_OUT], params, max_tokens=size),
    )


def students_of(side: str, workspace: Path, params: DistillationParams) -> Students:
    """Teacher and students: over one base for what is compared with QLoRA, copies else."""
    compute, data = _compute(workspace), workspace / "data"
    base, adapter = data / "models" / "base.json", data / "adapter"
    form, device = _models(workspace).numeric_form, prepare_device(compute)
    saved = params.saved_dtype
    if side in ("ours", "trl_gkd"):
        teacher = partial(
            load_adapted,
            base,
            _STORE,
            adapter,
            numeric_form=form,
            dtype=params.dtype,
            device=device,
        )
        other = partial(load_base, base, _STORE, numeric_form="float", device=device)
        return FullStudents(teacher, other, saved_dtype=saved, prompt=adapter / PROMPT)
    trained = partial(
        load_for_training,
        base,
        _STORE,
        device,
        numeric_form=form,
        dtype=params.dtype,
        dequantized=compute.dequantized_base,
    )
    whole = partial(load_base, base, _STORE, numeric_form=form, device=torch.device("cpu"))
    return SharedStudents(trained, whole, saved_dtype=saved, base=base, adapter=adapter)


def distil(side: str, workspace: Path, tokens: int, epochs: int) -> dict[str, float]:
    """Train a student on one side's terms; seconds, memory, held-out divergence."""
    params = settings(workspace, epochs)
    batches, held_out = material(workspace, tokens, params)
    students = students_of(side, workspace, params)
    teacher = students.teacher.model
    use_packed_attention(teacher)
    influence = block_influence(teacher, [pack for batch in batches[:4] for pack in batch.packs])
    layers = min(len(influence) - 1, round(_LAYERS_KEPT * len(influence)))
    plan = StudentPlan(str(layers), tuple(choose_layers(influence, layers, "importance")), "")
    student = students.make(plan)
    use_packed_attention(unwrapped_model(student))
    online = OnlineTeacher(teacher, vocabulary(teacher))
    before = held_out_interval(
        score_held_out(student, online, held_out, online.width), "divergence", bootstrap(0)
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if side == "trl_gkd":
            for model in (teacher, unwrapped_model(student)):
                model.set_attn_implementation("sdpa")
            seconds = train_gkd(
                student, teacher, students.teacher.tokenizer, batches, params, place
            )
            for model in (teacher, unwrapped_model(student)):
                use_packed_attention(model)
        else:
            seconds = train_ours(side, student, online, batches, params, place)
        found = held_out_interval(
            score_held_out(student, online, held_out, online.width), "divergence", bootstrap(0)
        )
        (place / "saved").mkdir()
        students.save(student, plan, "student", place / "saved")
    on_device = torch.cuda.is_available()
    megabytes = torch.cuda.max_memory_allocated() / 1e6 if on_device else most_megabytes()
    useful = epochs * sum(batch.tokens for batch in batches)
    return {
        "seconds": seconds,
        "megabytes": megabytes,
        "divergence": found.value,
        "divergence_before": before.value,
        "tokens": useful,
        "layers": layers,
        "teacher_layers": len(influence),
    }


def train_ours(
    side: str,
    student: Any,
    online: OnlineTeacher,
    batches: list[Batch],
    params: DistillationParams,
    place: Path,
) -> float:
    """Seconds of the optimizer steps, and of making the memo where the teacher is cached."""
    teacher: Any = online
    begun = time.perf_counter()
    if side == "cached":
        key = MemoKey("0" * 64, online.width, params.likeliest, params.objective.temperature)
        teacher = CachedTeacher(online, key, place)
        teacher.prepare(pack for batch in batches for pack in batch.packs)
        print(f"the memo takes {teacher.bytes_per_token:.0f} bytes a token", flush=True)
    prepared = time.perf_counter() - begun
    loss = distillation_loss(teacher, params.objective, online.width)
    train(student, batches, batches[:1], loss, params, scratch=place, identity="benchmark")
    return prepared + step_seconds(place, batches, seed=params.seed)


def fine_tune(workspace: Path, tokens: int) -> dict[str, float]:
    """Seconds and memory of QLoRA fine-tuning alone, on the same examples."""
    changes = {"batch_examples": _EXAMPLES_A_STEP, "evaluations": 1, "epochs": 1}
    params = _params(workspace, "finetuning", FinetuningParams, changes)
    batches, _ = material(workspace, tokens, params)
    compute = _compute(workspace)
    base = load_for_training(
        workspace / "data" / "models" / "base.json",
        _STORE,
        prepare_device(compute),
        numeric_form=_models(workspace).numeric_form,
        dtype=params.dtype,
        dequantized=compute.dequantized_base,
    )
    model = make_trainable(base, params)
    use_packed_attention(base.model)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        train(
            model, batches, batches[:1], summed_cross_entropy, params,
            scratch=place, identity="benchmark",
        )  # fmt: skip
        seconds = step_seconds(place, batches, seed=params.seed)
    return {"seconds": seconds, "megabytes": most_megabytes()}


def train_gkd(
    student: Any,
    teacher: Any,
    tokenizer: Any,
    batches: list[Batch],
    params: DistillationParams,
    place: Path,
) -> float:
    """Seconds of the optimizer steps of TRL's GKDTrainer, offline, in float32."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    clock = Clock()
    rows = [
        {
            "ids": [list(example.token_ids) for example in batch.examples],
            "prompts": [example.prompt_length for example in batch.examples],
        }
        for batch in batches
    ]
    trainer = GKDTrainer(
        student,
        teacher,
        GKDConfig(
            output_dir=str(place),
            lmbda=0.0,
            seq_kd=False,
            beta=0.0,
            temperature=1.0,
            bf16=False,
            gradient_checkpointing=False,
            num_train_epochs=params.epochs,
            per_device_train_batch_size=1,  # a row is a step's examples, as many as ours has
            train_sampling_strategy="sequential",
            learning_rate=float(params.learning_rate),
            lr_scheduler_type=params.schedule,
            warmup_steps=params.warmup_share,
            weight_decay=params.weight_decay,
            max_grad_norm=params.max_gradient_norm,
            seed=params.seed,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),
        ),
        data_collator=lambda rows: collate(**rows[0], padding=tokenizer.pad_token_id or 0),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    warm_up(trainer, student)
    trainer.train()
    return clock.seconds


def collate(ids: list[list[int]], prompts: list[int], *, padding: int) -> dict[str, Tensor]:
    """A step's examples, padded, as GKDTrainer reads them: prompts masked in the labels."""
    shape = len(ids), max(map(len, ids))
    input_ids, labels = torch.full(shape, padding), torch.full(shape, -100)
    mask = torch.zeros(shape, dtype=torch.long)
    for place, (row, prompt) in enumerate(zip(ids, prompts, strict=True)):
        input_ids[place, : len(row)] = torch.tensor(row)
        labels[place, prompt : len(row)] = torch.tensor(row[prompt:])
        mask[place, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def run_side(side: str, workspace: Path, tokens: int, epochs: int) -> dict[str, float]:
    """What was found for one side."""
    if side == "qlora":
        return fine_tune(workspace, tokens)
    return distil(side, workspace, tokens, epochs)
