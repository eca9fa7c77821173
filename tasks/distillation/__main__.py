"""Students, smaller than their teacher and taught by it, each beside a twin that was not."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.distillation.params import DistillationParams, Params
from tasks.distillation.pruning import measure_influence
from tasks.distillation.report import Night, numbers, plot_influence, write_report
from tasks.distillation.school import (
    Material,
    School,
    forget_others,
    read_material,
    series_of,
)
from tasks.distillation.students import (
    FullStudents,
    Origins,
    Plan,
    SharedStudents,
    Students,
    check_other,
    plan_students,
    served_parameters,
    write_layers,
)
from tasks.lm.checkpoints import drop_checkpoints
from tasks.lm.conversion import ModelManifest
from tasks.lm.curves import plot_losses
from tasks.lm.hardware import warn_of_slow_dtype
from tasks.lm.models import prepare_device, trained_form
from tasks.lm.packing import Pack
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.lm.provenance import write_provenance
from tasks.lm.training import training_identity
from tasks.records.hashing import text_sha256
from tasks.records.predictions import ROLES
from tasks.records.prompt_files import PROMPT
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, seal, verified

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
    """Train the students and their twins, and write them with their report."""
    verified(paths.tokens)
    settings = params.distillation
    _check_objective(settings)
    origins = _origins(params, paths)
    students = _load(params, origins)
    teacher = students.teacher
    if "model" in settings.students:
        check_other(origins, teacher)
    template = read_prompt_kit(paths.adapter / PROMPT, teacher.tokenizer)
    school = _school(params, paths, students)
    packs = _some_packs(school.material, settings.influence_examples)
    influence = measure_influence(teacher.model, packs, settings.layers)
    plans = plan_students(settings, influence.values, ModelManifest.read(paths.student_base).digest)
    series = [series_of(plan, role) for plan in plans for role in ROLES]
    forget_others(paths.scratch, series)
    with output_folders(paths.students, paths.distillation_report) as (folder, report):
        outcomes = []
        for number, plan in enumerate(plans):
            place = folder / plan.name
            place.mkdir()
            write_layers(plan, influence, settings.layers, place)
            share = (number / len(plans), (number + 1) / len(plans))
            outcomes.append(school.teach(plan, place, share))
            _finish(plan, place, params, paths, teacher.digest, template.digest)
        size, overlap = served_parameters(teacher.model), school.material.overlap
        night = Night(size, influence, tuple(outcomes), overlap)
        _report(night, settings, paths.scratch, report)
    for name in series:
        drop_checkpoints(paths.scratch / name)


def _school(params: Params, paths: Paths, students: Students) -> School:
    """The night's material, and two identities: of what the teacher says, and of each training."""
    settings, teacher = params.distillation, students.teacher.digest
    said = text_sha256(teacher, _form(params), settings.dtype, settings.weights)
    memo = paths.scratch / "teacher"
    material = read_material(
        paths.tokens,
        settings,
        students,
        memo,
        said,
        max_tokens=params.compute.micro_batch_tokens,
        max_new_tokens=params.prompting.max_new_tokens,
        generation_batch=params.compute.generation_batch,
    )
    learned = text_sha256(
        training_identity(settings, teacher, _form(params), paths.tokens),
        str(params.prompting.max_new_tokens) if settings.signal == "generated" else "",
    )
    return School(
        students,
        material,
        settings,
        paths.scratch,
        memo,
        teacher_identity=said,
        identity=learned,
    )


def _check_objective(settings: DistillationParams) -> None:
    if not settings.objective.divergence and settings.signal != "generated":
        LOGGER.warning(
            "the objective holds no divergence: students learn what their twins learn, and the "
            "teacher is of no use"
        )


def _origins(params: Params, paths: Paths) -> Origins:
    settings = params.distillation
    device = prepare_device(params.compute)
    warn_of_slow_dtype(settings.dtype, device)
    return Origins(
        paths.base,
        paths.student_base,
        paths.model_store,
        paths.adapter,
        params.models.numeric_form,
        settings.dtype,
        device,
    )


def _load(params: Params, origins: Origins) -> Students:
    settings = params.distillation
    if settings.weights == "full":
        return FullStudents(origins, settings.saved_dtype)
    return SharedStudents(
        origins, settings.saved_dtype, dequantized=params.compute.dequantized_base
    )


def _form(params: Params) -> str:
    """The numbers that the trainings see of their base."""
    form = params.models.numeric_form
    if params.distillation.weights == "full":
        return form
    return trained_form(form, dequantized=params.compute.dequantized_base)


def _finish(
    plan: Plan, place: Path, params: Params, paths: Paths, teacher: str, template: str
) -> None:
    """Say beside a student and its twin what they were made from, and seal both."""
    own = plan.kept is None
    for role in ROLES:
        write_provenance(
            place / role,
            base=ModelManifest.read(paths.student_base if own else paths.base).digest,
            numeric_form="float" if own else _form(params),
            teacher=teacher if role == "student" else None,
            start=None if own else teacher,
            template=template,
            tokens=paths.tokens,
            params=params.distillation,
        )
        seal(place / role)


def _report(night: Night, settings: DistillationParams, scratch: Path, report: Path) -> None:
    found = numbers(night, settings)
    write_metrics(report, found)
    write_report(night, found, report)
    plot_influence(night, report / "influence.png")
    for plan in (outcome.plan for outcome in night.outcomes):
        for series in (series_of(plan, role) for role in ROLES):
            plot_losses(scratch, report / f"loss-{series}.png", series, series=series)


def _some_packs(material: Material, examples: int) -> list[Pack]:
    """The first packs of what is learned, until they hold this many examples."""
    chosen: list[Pack] = []
    for pack in (pack for batch in material.gold for pack in batch.packs):
        if sum(item.examples for item in chosen) >= examples:
            break
        chosen.append(pack)
    return chosen


if __name__ == "__main__":
    sys.exit(run_stage("distillation", Params, Paths, run))
