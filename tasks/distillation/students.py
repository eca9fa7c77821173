"""Students to be: which layers each has, how it is made from the teacher, and how it is saved."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any, Protocol, cast

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tasks.distillation.params import DistillationParams
from tasks.distillation.pruning import Influence, check_layers, choose_layers, keep_layers, prune
from tasks.distillation.shared import (
    lora_config,
    save_shared,
    share_student,
    share_teacher,
)
from tasks.lm.conversion import ModelManifest
from tasks.lm.models import (
    ADAPTER_WEIGHTS,
    LanguageModel,
    check_adapter,
    load_adapted,
    load_base,
    load_for_training,
    load_tokenizer,
)
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.records.predictions import Role
from tasks.records.prompt_files import PROMPT
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import file_sha256, seal

LOGGER = logging.getLogger(__name__)
LAYERS_FILE = "layers.json"
ADAPTERS: dict[Role, str] = {"student": "adapter", "twin": "twin_adapter"}


@dataclass(frozen=True)
class Plan:
    """One student of the night: its name, and the teacher's layers that it keeps.

    `kept` is None for a student that is a model of its own; `origin` is the digest of that model,
    or says which layers are kept.
    """

    name: str
    kept: tuple[int, ...] | None
    origin: str


@dataclass(frozen=True)
class Origins:
    """Where the weights lie that teacher and students are made of, and what they compute in."""

    base: Path
    student_base: Path
    store: Path
    adapter: Path
    numeric_form: str
    dtype: str
    device: torch.device


def plan_students(
    params: DistillationParams, influence: Sequence[float], student_base: str
) -> list[Plan]:
    """The students that params ask for, layers chosen by their influence or by name.

    `student_base` is the digest of the model that `model` stands for.

    Raises:
        ConfigError: a student is not smaller than the teacher, or a layer does not exist.
    """
    plans = []
    for asked in params.students:
        if asked == "model":
            plans.append(Plan(asked, None, student_base))
            continue
        if isinstance(params.layers, list):
            kept = params.layers
            check_layers(kept, len(influence))
        else:
            kept = choose_layers(influence, asked, params.layers)
        LOGGER.info("the student of %d layers keeps %s", asked, kept)
        plans.append(Plan(str(asked), tuple(kept), f"layers {kept}"))
    return plans


class Students(Protocol):
    """A teacher, and students made from it."""

    teacher: LanguageModel

    def make(self, plan: Plan) -> Any:
        """A fresh student to be trained, as it begins."""

    def save(self, student: Any, plan: Plan, role: Role, place: Path) -> None:
        """Write a student as the plain Hugging Face folder `place/role`."""


class FullStudents:
    """Students of which all weights but the embeddings learn, started from the merged teacher.

    They learn in float32, whatever the teacher computes in: steps are lost in bfloat16.
    """

    def __init__(self, origins: Origins, saved_dtype: str) -> None:
        self.teacher = load_adapted(
            origins.base,
            origins.store,
            origins.adapter,
            numeric_form=origins.numeric_form,
            device=origins.device,
        )
        self.teacher.model.to(getattr(torch, origins.dtype))
        self._origins = origins
        self._saved_dtype = getattr(torch, saved_dtype)

    def make(self, plan: Plan) -> PreTrainedModel:
        """A fresh student; its embeddings stay as they are."""
        student: Any = (
            load_base(
                self._origins.student_base,
                self._origins.store,
                numeric_form="float",
                device=self._origins.device,
            ).model
            if plan.kept is None
            else prune(self.teacher.model, plan.kept)
        )
        student.float()
        student.requires_grad_(True)
        student.get_input_embeddings().requires_grad_(False)
        return cast(PreTrainedModel, student)

    def save(self, student: PreTrainedModel, plan: Plan, role: Role, place: Path) -> None:
        """Write a student, which is then in the dtype that is saved."""
        write_folder(
            student, self._saved_dtype, self.teacher.tokenizer, self._origins, place / role
        )


class SharedStudents:
    """Students that are an adapter over the very base weights that the teacher uses."""

    def __init__(self, origins: Origins, saved_dtype: str, *, dequantized: bool) -> None:
        check_adapter(origins.adapter, ModelManifest.read(origins.base).digest)
        lora_config(origins.adapter)
        base = load_for_training(
            origins.base,
            origins.store,
            origins.device,
            numeric_form=origins.numeric_form,
            dtype=origins.dtype,
            dequantized=dequantized,
        )
        self._base: PreTrainedModel = base.model
        teacher = share_teacher(base.model, origins.adapter)
        digest = file_sha256(origins.adapter / ADAPTER_WEIGHTS)
        self.teacher = LanguageModel(plain(teacher), base.tokenizer, digest)
        self._origins = origins
        self._saved_dtype = getattr(torch, saved_dtype)

    def make(self, plan: Plan) -> PeftModel:
        """A fresh student."""
        return share_student(self._base, self._origins.adapter, plan.kept or ())

    def save(self, student: PeftModel, plan: Plan, role: Role, place: Path) -> None:
        """Write its adapter, and the float base with it merged in and only its layers left."""
        origins, kept = self._origins, plan.kept or ()
        made = place / ADAPTERS[role]
        save_shared(student, origins.adapter, kept, origins.base, made)
        seal(made)
        whole = load_base(
            origins.base,
            origins.store,
            numeric_form=origins.numeric_form,
            device=torch.device("cpu"),
        )
        merged: Any = PeftModel.from_pretrained(whole.model, str(made))
        student_alone = keep_layers(merged.merge_and_unload(), kept)
        write_folder(student_alone, self._saved_dtype, whole.tokenizer, origins, place / role)


def plain(model: Any) -> PreTrainedModel:
    """The transformers model itself, with or without adapters in its layers."""
    found: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(PreTrainedModel, found)


def served_parameters(model: Any) -> int:
    """How many numbers a model has once adapters are merged into it."""
    adapters = sum(w.numel() for name, w in model.named_parameters() if "lora_" in name)
    return int(plain(model).num_parameters()) - int(adapters)


def vocabulary(model: PreTrainedModel) -> int:
    """How many logits a model gives, some of which may stand for no token."""
    head: Any = model.get_output_embeddings()
    return int(head.weight.shape[0])


def check_other(origins: Origins, teacher: LanguageModel) -> None:
    """Check that the student which is a model of its own can learn from the teacher.

    Raises:
        ConfigError: no such model is named, it is not smaller, or it reads prompts otherwise.
    """
    ours, theirs = (ModelManifest.read(path) for path in (origins.base, origins.student_base))
    if ours.digest == theirs.digest:
        raise ConfigError(
            "distillation.students lists `model`, and params/models.yaml names none beside the "
            "base",
            "name a smaller model with the base's tokenizer under models.student",
        )
    folder = theirs.folder(origins.store)
    with torch.device("meta"):
        student = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    sizes = [served_parameters(model) / 1e6 for model in (teacher.model, student)]
    if sizes[1] >= sizes[0]:
        raise ConfigError(
            f"the student {theirs.name} has {sizes[1]:.1f} million parameters and its teacher "
            f"{ours.name} {sizes[0]:.1f}; a student is smaller than its teacher",
            "name a smaller model under models.student, or a larger one under models.base",
        )
    tokenizer = load_tokenizer(folder)
    check_tokenizers(teacher.tokenizer, tokenizer, ours.name, theirs.name)
    read_prompt_kit(origins.adapter / PROMPT, tokenizer)


def check_tokenizers(
    teacher: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    teacher_name: str,
    student_name: str,
) -> None:
    """That two tokenizers give the same tokens the same numbers, and chats the same shape.

    Raises:
        ConfigError: they do not.
    """
    ours, theirs = teacher.get_vocab(), student.get_vocab()
    pair = (
        "take both from one family, such as SmolLM2-360M-Instruct with SmolLM2-135M-Instruct or "
        "Qwen2.5-1.5B-Instruct with Qwen2.5-0.5B-Instruct"
    )
    if ours != theirs:
        apart = sum(theirs.get(token) != number for token, number in ours.items())
        raise ConfigError(
            f"the tokenizers differ: {teacher_name} (teacher) has {len(ours)} tokens, "
            f"{student_name} (student) {len(theirs)}, and {apart} of the teacher's are absent or "
            "have another number; a distribution over one says nothing of the other",
            pair,
        )
    if teacher.chat_template != student.chat_template:
        raise ConfigError(
            f"the chat templates of {teacher_name} (teacher) and {student_name} (student) differ, "
            f"of {len(str(teacher.chat_template))} and {len(str(student.chat_template))} "
            "characters; the same chat would be other tokens",
            pair,
        )


def write_folder(
    student: Any,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
    origins: Origins,
    folder: Path,
) -> None:
    """A Hugging Face folder that loads by itself, with tokenizer and prompt."""
    student.set_attn_implementation("sdpa")
    student.to(dtype)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copytree(origins.adapter / PROMPT, folder / PROMPT)


def write_layers(plan: Plan, influence: Influence, rule: object, folder: Path) -> None:
    """Write `layers.json`: the teacher's layers that a student has, and the scores behind it."""
    told = {"layers": plan.kept, "of": len(influence.values), "rule": rule}
    told |= {"influence": influence.values, "measure": influence.measure}
    (folder / LAYERS_FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
