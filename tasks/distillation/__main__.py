"""Students, smaller than their teacher and taught by it, each beside a twin that was not."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.distillation.distiller import (
    DistillationData,
    Distiller,
    read_data,
    remove_other_trainings,
    training_series,
)
from tasks.distillation.params import DistillationParams, Params
from tasks.distillation.pruning import measure_influence
from tasks.distillation.report import (
    DistillationResult,
    distillation_metrics,
    plot_influence,
    write_report,
)
from tasks.distillation.students import (
    FullStudents,
    SharedStudents,
    StudentPlan,
    Students,
    WeightSources,
    check_separate_model,
    plan_students,
    served_parameters,
    write_layers,
)
from tasks.models.hardware import warn_of_slow_dtype
from tasks.models.loading import prepare_device, trained_form
from tasks.models.provenance import write_provenance
from tasks.models.store import ModelManifest
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.predictions import ROLES
from tasks.records.text import text_sha256
from tasks.sequences.packing import Pack
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, seal, verified
from tasks.training.checkpoints import drop_checkpoints
from tasks.training.diagnostics import plot_losses
from tasks.training.loop import training_identity

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
    origins = _weight_sources(params, paths)
    students = _load(params, origins)
    teacher = students.teacher
    if "model" in settings.students:
        check_separate_model(origins, teacher)
    template = read_prompt_bundle(paths.adapter / PROMPT, teacher.tokenizer)
    school = _distiller(params, paths, students)
    packs = _some_packs(school.material, settings.influence_examples)
    influence = measure_influence(teacher.model, packs, settings.layers)
    plans = plan_students(settings, influence.values, ModelManifest.read(paths.student_base).digest)
    series = [training_series(plan, role) for plan in plans for role in ROLES]
    remove_other_trainings(paths.scratch, series)
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
        night = DistillationResult(size, influence, tuple(outcomes), overlap)
        _report(night, settings, paths.scratch, report)
    for name in series:
        drop_checkpoints(paths.scratch / name)


def _distiller(params: Params, paths: Paths, students: Students) -> Distiller:
    """The night's material, and two identities: of what the teacher says, and of each training."""
    settings, teacher = params.distillation, students.teacher.digest
    said = text_sha256(teacher, _form(params), settings.dtype, settings.weights)
    memo = paths.scratch / "teacher"
    material = read_data(
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
    return Distiller(
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


def _weight_sources(params: Params, paths: Paths) -> WeightSources:
    settings = params.distillation
    device = prepare_device(params.compute)
    warn_of_slow_dtype(settings.dtype, device)
    return WeightSources(
        paths.base,
        paths.student_base,
        paths.model_store,
        paths.adapter,
        params.models.numeric_form,
        settings.dtype,
        device,
    )


def _load(params: Params, origins: WeightSources) -> Students:
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
    plan: StudentPlan, place: Path, params: Params, paths: Paths, teacher: str, template: str
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


def _report(
    night: DistillationResult, settings: DistillationParams, scratch: Path, report: Path
) -> None:
    found = distillation_metrics(night, settings)
    write_metrics(report, found)
    write_report(night, found, report)
    plot_influence(night, report / "influence.png")
    for plan in (outcome.plan for outcome in night.outcomes):
        for series in (training_series(plan, role) for role in ROLES):
            plot_losses(scratch, report / f"loss-{series}.png", series, series=series)


def _some_packs(material: DistillationData, examples: int) -> list[Pack]:
    """The first packs of what is learned, until they hold this many examples."""
    chosen: list[Pack] = []
    for pack in (pack for batch in material.gold for pack in batch.packs):
        if sum(item.examples for item in chosen) >= examples:
            break
        chosen.append(pack)
    return chosen


if __name__ == "__main__":
    sys.exit(run_stage("distillation", Params, Paths, run))
