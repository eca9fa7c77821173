"""Students: how each is made from its teacher, and how it is saved."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any, Protocol, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tasks.distillation.pruning import (
    StudentPlan,
    decoder_layers,
    keep_layers,
    prune,
    prune_shared,
)
from tasks.generation.greedy_decoding import list_stops
from tasks.models.loading import (
    ADAPTER_WEIGHTS,
    LanguageModel,
    check_adapter,
    load_tokenizer,
)
from tasks.models.manifest import ModelManifest
from tasks.models.peft_library import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from tasks.models.provenance import tidy_adapter
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.predictions import Role
from tasks.sequences.attention import use_plain_attention
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import file_sha256, seal

ADAPTERS: dict[Role, str] = {"student": "adapter", "control": "control_adapter"}
# Loads a model, always the same.
LoadModel = Callable[[], LanguageModel]
_LAYER_NUMBER = re.compile(r"(\.layers\.)(\d+)(\.)")


def share_teacher(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """Return the teacher, frozen: all layers of the base, whose weights are in memory once."""
    tree = prune_shared(base, range(len(decoder_layers(base))))
    return PeftModel.from_pretrained(tree, str(adapter)).eval()


def share_student(base: PreTrainedModel, adapter: Path, kept: Sequence[int]) -> PeftModel:
    """Return the kept layers of the base, with a trainable copy of the teacher's adapter on them.

    Raises:
        ConfigError: the adapter is not a LoRA whose layers are the base's.
    """
    student = get_peft_model(prune_shared(base, kept), lora_config(adapter))
    places = {number: place for place, number in enumerate(kept)}
    start = {}
    for name, weight in load_file(adapter / ADAPTER_WEIGHTS).items():
        found = _LAYER_NUMBER.search(name)
        if found is None or int(found[2]) in places:
            number = "" if found is None else str(places[int(found[2])])
            start[_LAYER_NUMBER.sub(rf"\g<1>{number}\g<3>", name)] = weight
    result: Any = set_peft_model_state_dict(student, start)
    absent = [name for name in result.missing_keys if "lora_" in name]
    if absent or result.unexpected_keys:
        raise ConfigError(
            f"{adapter} does not fit a student of these layers: {len(absent)} weights are missing "
            f"and {len(result.unexpected_keys)} have no place",
            "run finetuning again on this base, with a method whose adapter is a LoRA",
        )
    return student


def save_shared(
    student: PeftModel, adapter: Path, kept: Sequence[int], manifest: Path, folder: Path
) -> None:
    """Write a student's adapter in peft's format, its layers numbered as the base's.

    So the base takes it as it is; which layers run is told elsewhere.
    """
    config = lora_config(adapter)
    config.inference_mode = True
    config.layers_to_transform = list(kept)
    config.layers_pattern = "layers"
    folder.mkdir()
    config.save_pretrained(str(folder))
    weights = {
        _LAYER_NUMBER.sub(lambda found: f"{found[1]}{kept[int(found[2])]}{found[3]}", name): weight
        for name, weight in get_peft_model_state_dict(student, save_embedding_layers=False).items()
    }
    save_file(
        {name: weight.contiguous() for name, weight in weights.items()},
        folder / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    tidy_adapter(folder, manifest)


def lora_config(adapter: Path) -> LoraConfig:
    """Return the config of a teacher's adapter, for an adapter that goes on learning.

    Raises:
        ConfigError: it is no LoRA.
    """
    if not (adapter / ADAPTER_WEIGHTS).exists():
        raise _not_lora(adapter)
    config = LoraConfig.from_pretrained(str(adapter))
    if not isinstance(config, LoraConfig):
        raise _not_lora(adapter)
    config.inference_mode = False
    return config


def _not_lora(adapter: Path) -> ConfigError:
    return ConfigError(
        f"{adapter} is no LoRA, and a student of shared weights starts from one",
        "set distillation.weights: full, or finetuning.method: qlora",
    )


class Students(Protocol):
    """A teacher, and students made from it."""

    teacher: LanguageModel

    def make(self, plan: StudentPlan) -> Any:
        """Return a fresh student to be trained, as it begins."""

    def save(self, student: Any, plan: StudentPlan, role: Role, place: Path) -> None:
        """Write a student as the plain Hugging Face folder `place/role`."""


class FullStudents:
    """Students of which all weights but the embeddings learn, started from the merged teacher.

    They learn in float32, whatever the teacher computes in: steps are lost in bfloat16.
    """

    def __init__(
        self,
        load_teacher: LoadModel,
        load_separate: LoadModel,
        *,
        saved_dtype: str,
        prompt: Path,
    ) -> None:
        """Load the teacher.

        `load_separate` gives the student that is a model of its own, `prompt` goes with all.
        """
        self.teacher = load_teacher()
        self._load_separate = load_separate
        self._prompt = prompt
        self._saved_dtype = getattr(torch, saved_dtype)

    def make(self, plan: StudentPlan) -> PreTrainedModel:
        """Return a fresh student; its embeddings stay as they are."""
        student: Any = (
            self._load_separate().model
            if plan.kept is None
            else prune(self.teacher.model, plan.kept)
        )
        student.float()
        student.requires_grad_(True)
        student.get_input_embeddings().requires_grad_(False)
        return cast(PreTrainedModel, student)

    def save(self, student: PreTrainedModel, plan: StudentPlan, role: Role, place: Path) -> None:
        """Write a student, which is then in the dtype that is saved."""
        _write_folder(
            student, self._saved_dtype, self.teacher.tokenizer, self._prompt, place / role
        )


class SharedStudents:
    """Students that are an adapter over the very base weights that the teacher uses."""

    def __init__(
        self,
        load_trained: LoadModel,
        load_whole: LoadModel,
        *,
        saved_dtype: str,
        base: Path,
        adapter: Path,
    ) -> None:
        """Load the base, whose manifest is `base`, as it is trained on.

        `load_whole` gives it as it is served, on the CPU.

        Raises:
            ConfigError: the adapter is no LoRA of this base.
        """
        check_adapter(adapter, ModelManifest.read(base).digest)
        lora_config(adapter)
        trained = load_trained()
        self._base: PreTrainedModel = trained.model
        teacher = share_teacher(trained.model, adapter)
        digest = file_sha256(adapter / ADAPTER_WEIGHTS)
        self.teacher = LanguageModel(unwrapped_model(teacher), trained.tokenizer, digest)
        self._load_whole = load_whole
        self._manifest = base
        self._adapter = adapter
        self._saved_dtype = getattr(torch, saved_dtype)

    def make(self, plan: StudentPlan) -> PeftModel:
        """Return a fresh student."""
        return share_student(self._base, self._adapter, plan.kept or ())

    def save(self, student: PeftModel, plan: StudentPlan, role: Role, place: Path) -> None:
        """Write its adapter, and the float base with it merged in and only its layers left."""
        kept = plan.kept or ()
        made = place / ADAPTERS[role]
        save_shared(student, self._adapter, kept, self._manifest, made)
        seal(made)
        whole = self._load_whole()
        merged: Any = PeftModel.from_pretrained(whole.model, str(made))
        student_alone = keep_layers(merged.merge_and_unload(), kept)
        prompt = self._adapter / PROMPT
        _write_folder(student_alone, self._saved_dtype, whole.tokenizer, prompt, place / role)


def unwrapped_model(model: Any) -> PreTrainedModel:
    """Return the transformers model itself, with or without adapters in its layers."""
    found: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return cast(PreTrainedModel, found)


def served_parameters(model: Any) -> int:
    """Return how many numbers a model has once adapters are merged into it."""
    adapters = sum(w.numel() for name, w in model.named_parameters() if "lora_" in name)
    return int(unwrapped_model(model).num_parameters()) - int(adapters)


def vocabulary(model: PreTrainedModel) -> int:
    """Return how many logits a model gives, some of which may stand for no token."""
    head: Any = model.get_output_embeddings()
    return int(head.weight.shape[0])


def check_separate_model(
    teacher: LanguageModel, base: Path, student_base: Path, store: Path, prompt: Path
) -> None:
    """Check that the student which is a model of its own can learn from the teacher.

    `base` and `student_base` are the manifests of both.

    Raises:
        ConfigError: no such model is named, it is not smaller, or it reads prompts otherwise.
    """
    ours, theirs = (ModelManifest.read(path) for path in (base, student_base))
    if ours.digest == theirs.digest:
        raise ConfigError(
            "distillation.students lists `model`, and params/models.yaml names none beside the "
            "base",
            "name a smaller model with the base's tokenizer under models.student",
        )
    folder = theirs.folder(store)
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
    read_prompt_bundle(prompt, tokenizer)


def check_tokenizers(
    teacher: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    teacher_name: str,
    student_name: str,
) -> None:
    """Check that two tokenizers give the same tokens the same numbers, and chats the same shape.

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


def _write_folder(
    student: Any,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Path,
    folder: Path,
) -> None:
    """Write a Hugging Face folder that loads by itself, with tokenizer and prompt."""
    use_plain_attention(student)
    student.to(dtype)
    list_stops(student, tokenizer)
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copytree(prompt, folder / PROMPT)
