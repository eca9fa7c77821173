"""The systems: tonight's base, adapter and students, and those that --system names by path."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tasks.answering.loading import load_served
from tasks.answering.release_bundle import (
    ADAPTER,
    EMBEDDER,
    INDEX,
    SETTINGS,
    STUDENT,
    BundleSettings,
)
from tasks.evaluation.requests import Retriever
from tasks.generation.greedy_decoding import Generation
from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import LanguageModel, load_adapted, load_base, load_folder, load_student
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle, read_template
from tasks.prompting.templates import PromptTemplate
from tasks.records.predictions import ROLES, Role
from tasks.records.schema import Record, ServedModel
from tasks.retrieval.index import Index
from tasks.scoring.record_hashes import LEARNED_FILE, find_learned, read_hashes
from tasks.stage.command import NamedPath
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import verified
from tasks.task_types.classify import LINEAR
from tasks.task_types.table import TrainedTask

LOGGER = logging.getLogger(__name__)

_OWN_NAMES = ("base", "adapter", *ROLES, LINEAR)

_CONFIG = "config.json"

# The template with which a model of this tokenizer is asked.
ReadTemplate = Callable[[PreTrainedTokenizerBase], PromptTemplate]

# `generate`, bound to its lengths: called with a model, prompts of token ids and `progress`.
Generate = Callable[..., list[Generation]]


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are made and decoded.

    Where `answer_after` is not None, what follows its last occurrence in an output is the answer;
    an output without it is an answer as a whole. Where there are `labels`, nothing else is said.
    """

    template: ReadTemplate
    generate: Generate
    answer_after: str | None = None
    labels: tuple[str, ...] | None = None

    def decode(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        progress: Callable[[int, int], None],
    ) -> list[Generation]:
        """Return what a model answers to prompts of token ids."""
        if self.labels is None:
            return self.generate(model, prompts, progress=progress)
        labels = LabelTrie.of(model.tokenizer, self.labels)
        return self.generate(model, prompts, progress=progress, labels=labels)


@dataclass(frozen=True)
class System:
    """A model that can be loaded, and how it is prompted."""

    name: str
    load: Callable[[], LanguageModel]
    prompt: PromptSettings


@dataclass(frozen=True)
class ModelFiles:
    """Where the weights of the night's own systems lie, and how they are computed."""

    base: Path
    store: Path
    adapter: Path
    student_folder: Path
    numeric_form: str
    device: torch.device

    def students(self, prompt: PromptSettings) -> dict[str, dict[Role, System]]:
        """Return students and controls by name, as distillation named their folders, and role."""
        names = sorted(path.name for path in self.student_folder.iterdir() if path.is_dir())
        return {
            name: {role: self.system(f"{role}-{name}", prompt) for role in ROLES} for name in names
        }

    def system(self, name: str, prompt: PromptSettings) -> System:
        """Return one of base, adapter, student-NAME and control-NAME, prompted in a given way."""
        return System(name, partial(self._load, name), prompt)

    def _load(self, system: str) -> LanguageModel:
        role, _, name = system.partition("-")
        if name:
            return load_student(self.student_folder / name / role, device=self.device)
        form = self.numeric_form
        if system == "adapter":
            return load_adapted(
                self.base, self.store, self.adapter, numeric_form=form, device=self.device
            )
        return load_base(self.base, self.store, numeric_form=form, device=self.device)


@dataclass(frozen=True)
class ExternalSystem:
    """A system by path; its own retriever where it is a bundle, None where tonight's serves it."""

    system: System
    retriever: Retriever | None


def open_external_systems(
    given: Sequence[NamedPath],
    store: Path,
    prompt: PromptSettings,
    kit: Path,
    *,
    device: torch.device,
) -> list[ExternalSystem]:
    """Return the systems that the command line names, none of them loaded yet.

    A release bundle is asked as it is served, with its own prompt, passages and numeric form:
    BUNDLE or BUNDLE/adapter is its adapter, BUNDLE/student its student. A plain model folder is
    asked with the prompt in `kit` and computed in float32. Tonight's compute params hold for all.

    Raises:
        ConfigError: a name is one of the night's own, or a path is neither.
        DataError: a bundle is not whole.
    """
    opened = []
    for item in given:
        if item.name.partition("-")[0] in _OWN_NAMES:
            raise ConfigError(
                f"--system {item.name}={item.path} takes a name that the night's own systems have "
                f"({', '.join(_OWN_NAMES)}, and these with a dash and more)",
                "choose another name, e.g. reigning",
            )
        bundle, model = bundle_model(item.path)
        if bundle is None:
            opened.append(ExternalSystem(_folder_system(item, prompt, kit, device), None))
        else:
            opened.append(
                served_system(
                    item.name, bundle, model, store, generate=prompt.generate, device=device
                )
            )
    return opened


def learned_records(bundle: Path, records: Sequence[Record]) -> list[str] | None:
    """Return the ids of the records that a bundle's models may have learned.

    None where the bundle does not tell, because an older version made it.
    """
    path = bundle / LEARNED_FILE
    return find_learned(records, read_hashes(path)) if path.exists() else None


def refuse_learned(given: Sequence[NamedPath], records: Sequence[Record]) -> None:
    """Check that no bundle that the command line names has learned a record that is asked.

    Raises:
        ConfigError: one has.
    """
    for item in given:
        bundle, _ = bundle_model(item.path)
        learned = [] if bundle is None else learned_records(bundle, records)
        if learned is None:
            LOGGER.warning("%s does not tell which records it has learned", item.name)
        elif learned:
            raise ConfigError(
                f"--system {item.name}={item.path} may have learned {len(learned)} of the "
                f"{len(records)} test records that are asked, {learned[0]} for one: the split "
                "changed after it was made, and scores of what was learned cannot be compared",
                "leave it out, or compare it on data whose split it did not learn from",
            )


def bundle_model(path: Path) -> tuple[Path | None, ServedModel]:
    """Return the bundle that a path names, None where it names none, and which of its models."""
    if (path / SETTINGS).is_file():
        return path, "adapter"
    path = path.resolve()
    if path.name in (ADAPTER, STUDENT) and (path.parent / SETTINGS).is_file():
        return path.parent, "student" if path.name == STUDENT else "adapter"
    return None, "adapter"


def served_system(
    name: str,
    bundle: Path,
    model: ServedModel,
    store: Path,
    *,
    generate: Generate,
    device: torch.device,
) -> ExternalSystem:
    """Return one of a bundle's models, asked as it is served; not loaded yet.

    `generate` gets the bundle's own `max_new_tokens`.

    Raises:
        DataError: the bundle is not whole.
    """
    settings = BundleSettings.read(verified(bundle))
    form = settings.models.numeric_form
    load = partial(load_served, bundle, store, model, numeric_form=form, device=device)
    kit = bundle / model / PROMPT
    task = TrainedTask.read(kit)
    prompt = PromptSettings(
        partial(read_prompt_bundle, kit),
        partial(generate, max_new_tokens=settings.prompting.max_new_tokens),
        labels=task.spoken,
    )
    retriever = Retriever.of(
        Index.load(bundle / INDEX),
        settings.prompting.passages,
        embedder=bundle / EMBEDDER,
        store=store,
        device=device,
        query=task.query,
    )
    return ExternalSystem(System(name, load, prompt), retriever)


def _folder_system(
    item: NamedPath, prompt: PromptSettings, kit: Path, device: torch.device
) -> System:
    if not (item.path / _CONFIG).is_file():
        found = (
            _listed(path.name for path in item.path.iterdir()) if item.path.is_dir() else "one file"
        )
        raise ConfigError(
            f"--system {item.name}={item.path} is neither a release bundle (no {SETTINGS}) nor a "
            f"Hugging Face model folder (no {_CONFIG}); found: {found}",
            "name a bundle that a night made, e.g. data/bundle, or a folder written by "
            "save_pretrained",
        )

    def template(_: object) -> PromptTemplate:
        return read_template(kit)

    own = replace(prompt, template=template, answer_after=None)
    return System(item.name, partial(load_folder, item.path, device=device), own)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:6]) or "nothing"
