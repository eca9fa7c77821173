"""Students, smaller than their teacher and taught by it, each beside a control that was not."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from tasks.distillation.data import AnswerExamples, read_data, with_teacher_answers
from tasks.distillation.distiller import (
    Distiller,
    remove_other_trainings,
    training_series,
)
from tasks.distillation.held_out import Bootstrap, bootstrap
from tasks.distillation.params import DistillationParams, Params
from tasks.distillation.pruning import StudentPlan, make_folder, measure_influence, plan_students
from tasks.distillation.report import (
    DistillationResult,
    distillation_metrics,
    plot_influence,
    write_report,
)
from tasks.distillation.students import (
    FullStudents,
    SharedStudents,
    Students,
    check_separate_model,
    served_parameters,
)
from tasks.distillation.teacher import Teacher
from tasks.generation.label_trie import LabelTrie
from tasks.models.loading import (
    load_adapted,
    load_base,
    load_for_training,
    load_tokenizer,
    prepare_device,
    trained_form,
)
from tasks.models.manifest import ModelManifest
from tasks.models.provenance import write_provenance
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.predictions import ROLES
from tasks.records.text import text_sha256
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, seal, verified
from tasks.task_types.table import TrainedTask
from tasks.training.checkpoints import drop_checkpoints
from tasks.training.diagnostics import plot_losses
from tasks.training.loop import train, training_identity

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    tokens: Path
    base: Path
    student_base: Path
    model_store: Path
    adapter: Path
    scratch: Path
    students: Path = output()
    distillation_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Train the students and their controls, and write them with their report."""
    verified(paths.tokens)
    settings = params.distillation
    _check_objective(settings)
    template = _template(paths)
    device = prepare_device(params.compute)
    whole = settings.weights == "full" or params.compute.dequantized_base
    form = trained_form(params.models.numeric_form, dequantized=whole)
    students = _students(params, paths, device)
    how = (form, settings.dtype, settings.weights)
    teacher = Teacher(students.teacher, how, paths.scratch / "teacher")
    answer = _answer(params, teacher, paths) if settings.signal == "generated" else None
    size = params.compute.micro_batch_tokens
    data = read_data(paths.tokens, settings, max_tokens=size, answer=answer).prepared(teacher.model)
    influence = measure_influence(teacher.model, data.influence_packs(), settings.layers)
    separate = ModelManifest.read(paths.student_base).digest
    plans = plan_students(settings.students, settings.layers, influence.values, separate)
    series = [training_series(plan, role) for plan in plans for role in ROLES]
    remove_other_trainings(paths.scratch, series)
    identity = training_identity(settings, students.teacher.digest, form, paths.tokens)
    learned = text_sha256(identity, "" if answer is None else str(params.prompting.max_new_tokens))
    identities = [text_sha256(learned, plan.origin) for plan in plans]
    distiller = Distiller(students, settings, partial(train, scratch=paths.scratch), paths.scratch)
    provenance = partial(write_provenance, tokens=paths.tokens, template=template, params=settings)
    with output_folders(paths.students, paths.distillation_report) as (folder, report):
        outcomes = []
        for number, (plan, identity) in enumerate(zip(plans, identities, strict=True)):
            place = make_folder(plan, influence, settings.layers, folder)
            share = (number / len(plans), (number + 1) / len(plans))
            outcomes.append(distiller.distill(plan, data, teacher, identity, place, share))
        count = served_parameters(teacher.model)
        result = DistillationResult(count, influence, tuple(outcomes), data.overlap)
        _report(result, bootstrap(settings.seed), paths.scratch, report)
        for plan in plans:
            _seal(plan, folder / plan.name, paths, form, students.teacher.digest, provenance)
    for name in series:
        drop_checkpoints(paths.scratch / name)


def _check_objective(settings: DistillationParams) -> None:
    if not settings.objective.divergence and settings.signal != "generated":
        LOGGER.warning(
            "the objective holds no divergence: students learn what their controls learn, and the "
            "teacher is of no use"
        )


def _template(paths: Paths) -> str:
    """Return the digest of the adapter's prompts, which the base's tokenizer must know."""
    tokenizer = load_tokenizer(ModelManifest.read(paths.base).folder(paths.model_store))
    return read_prompt_bundle(paths.adapter / PROMPT, tokenizer).digest


def _students(params: Params, paths: Paths, device: torch.device) -> Students:
    """Return tonight's students, each kind with the ways in which its models are loaded."""
    settings, form = params.distillation, params.models.numeric_form
    base, store, adapter = paths.base, paths.model_store, paths.adapter
    if settings.weights == "shared":
        return SharedStudents(
            partial(
                load_for_training,
                base,
                store,
                device,
                numeric_form=form,
                dtype=settings.dtype,
                dequantized=params.compute.dequantized_base,
            ),
            partial(load_base, base, store, numeric_form=form, device=torch.device("cpu")),
            saved_dtype=settings.saved_dtype,
            base=base,
            adapter=adapter,
        )
    students = FullStudents(
        partial(
            load_adapted,
            base,
            store,
            adapter,
            numeric_form=form,
            dtype=settings.dtype,
            device=device,
        ),
        partial(load_base, paths.student_base, store, numeric_form="float", device=device),
        saved_dtype=settings.saved_dtype,
        prompt=adapter / PROMPT,
    )
    if "model" in settings.students:
        prompt = adapter / PROMPT
        check_separate_model(students.teacher, base, paths.student_base, store, prompt)
    return students


def _answer(params: Params, teacher: Teacher, paths: Paths) -> AnswerExamples:
    """Return what puts the teacher's own answers in the place of others."""
    tokenizer = teacher.language_model.tokenizer
    spoken = TrainedTask.read(paths.adapter / PROMPT).spoken
    return partial(
        with_teacher_answers,
        teacher=teacher.language_model,
        identity=teacher.identity if spoken is None else text_sha256(teacher.identity, *spoken),
        memo=teacher.memo,
        max_new_tokens=params.prompting.max_new_tokens,
        batch_size=params.compute.generation_batch,
        labels=None if spoken is None else LabelTrie.of(tokenizer, spoken),
    )


def _seal(
    plan: StudentPlan,
    place: Path,
    paths: Paths,
    form: str,
    teacher: str,
    write: Callable[..., None],
) -> None:
    """Say beside a student and its control what they were made from, and seal both.

    `write` writes a provenance and knows what all of tonight's have in common.
    """
    own = plan.kept is None
    for role in ROLES:
        write(
            place / role,
            base=ModelManifest.read(paths.student_base if own else paths.base).digest,
            numeric_form="float" if own else form,
            teacher=teacher if role == "student" else None,
            start=None if own else teacher,
        )
        seal(place / role)


def _report(result: DistillationResult, draw: Bootstrap, scratch: Path, report: Path) -> None:
    found = distillation_metrics(result, draw)
    write_metrics(report, found)
    write_report(result, found, report)
    plot_influence(result, report / "influence.png")
    for plan in (outcome.plan for outcome in result.outcomes):
        for series in (training_series(plan, role) for role in ROLES):
            plot_losses(scratch, report / f"loss-{series}.png", series, series=series)


if __name__ == "__main__":
    sys.exit(run_stage("distillation", Params, Paths, run))
