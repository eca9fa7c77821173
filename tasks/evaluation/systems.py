"""The systems: tonight's base, adapter and students, and those that --system names by path."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

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
from tasks.evaluation.system_run import PromptSettings, System
from tasks.models.loading import LanguageModel, load_adapted, load_base, load_folder, load_student
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle, read_template
from tasks.prompting.templates import PromptTemplate
from tasks.records.predictions import ROLES
from tasks.records.schema import ServedModel
from tasks.retrieval.index import Index
from tasks.stage.command import NamedPath
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import verified

_OWN_NAMES = ("base", "adapter", *ROLES)

_CONFIG = "config.json"


@dataclass(frozen=True)
class ModelFiles:
    """Where the night's own systems' weights lie, and the form they are computed in."""

    base: Path
    store: Path
    adapter: Path
    students: Path
    numeric_form: str

    def names(self) -> list[str]:
        """The students' names, as distillation named their folders."""
        return sorted(path.name for path in self.students.iterdir() if path.is_dir())

    def load(self, system: str, device: torch.device) -> LanguageModel:
        """One of the systems, in memory: base, adapter, student-NAME or twin-NAME."""
        role, _, name = system.partition("-")
        if name:
            return load_student(self.students / name / role, device=device)
        form = self.numeric_form
        if system == "adapter":
            return load_adapted(
                self.base, self.store, self.adapter, numeric_form=form, device=device
            )
        return load_base(self.base, self.store, numeric_form=form, device=device)

    def subject(self, system: str, asking: PromptSettings) -> System:
        """One of the systems, asked in a given way."""
        return System(system, partial(self.load, system), asking)


@dataclass(frozen=True)
class ExternalSystem:
    """A system by path, with its own library where it is a bundle, else with tonight's (None)."""

    subject: System
    library: Retriever | None


def open_external_systems(
    given: Sequence[NamedPath], store: Path, asking: PromptSettings, kit: Path
) -> list[ExternalSystem]:
    """The systems that the command line names, none of them loaded yet.

    A release bundle is asked as it is served, with its own prompt, passages and numeric form:
    BUNDLE or BUNDLE/adapter is its adapter, BUNDLE/student its student. A plain model folder is
    asked with the prompt in `kit` and computed in float32. Tonight's compute params hold for all.

    Raises:
        ConfigError: a name is one of the night's own, or a path is neither.
        DataError: a bundle is not whole.
    """
    guests = []
    for item in given:
        if item.name.partition("-")[0] in _OWN_NAMES:
            raise ConfigError(
                f"--system {item.name}={item.path} takes a name that the night's own systems have "
                f"({', '.join(_OWN_NAMES)}, and these with a dash and more)",
                "choose another name, e.g. reigning",
            )
        bundle, model = bundle_model(item.path)
        if bundle is not None:
            guests.append(
                served_system(
                    item.name,
                    bundle,
                    model,
                    store,
                    batch_size=asking.batch_size,
                    device=asking.device,
                    abstentions=asking.abstentions,
                )
            )
        else:
            guests.append(_folder_system(item, asking, kit))
    return guests


def bundle_model(path: Path) -> tuple[Path | None, ServedModel]:
    """The bundle that a path names, None where it names none, and which of its models."""
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
    batch_size: int,
    device: torch.device,
    abstentions: tuple[str, ...],
) -> ExternalSystem:
    """One of a bundle's models, asked as it is served; not loaded yet.

    Raises:
        DataError: the bundle is not whole.
    """
    settings = BundleSettings.read(verified(bundle))
    form = settings.models.numeric_form

    def load(device: torch.device) -> LanguageModel:
        return load_served(bundle, store, model, numeric_form=form, device=device)

    asking = PromptSettings(
        template=partial(read_prompt_bundle, bundle / model / PROMPT),
        max_new_tokens=settings.prompting.max_new_tokens,
        batch_size=batch_size,
        device=device,
        answer_after=None,
        abstentions=abstentions,
    )
    index = Index.load(bundle / INDEX)
    library = Retriever(index, bundle / EMBEDDER, store, device, settings.prompting.passages)
    return ExternalSystem(System(name, load, asking), library)


def _folder_system(item: NamedPath, asking: PromptSettings, kit: Path) -> ExternalSystem:
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

    def load(device: torch.device) -> LanguageModel:
        return load_folder(item.path, device=device)

    own = replace(asking, template=template, answer_after=None)
    return ExternalSystem(System(item.name, load, own), None)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:6]) or "nothing"
