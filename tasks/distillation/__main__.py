"""Students, smaller than their teacher and taught by it, each beside a twin that was not."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.distillation.params import Params
from tasks.distillation.pruning import block_influence
from tasks.distillation.report import Night, numbers, plot_influence, write_report
from tasks.distillation.school import ROLES, Material, School, read_material, series_of
from tasks.distillation.students import (
    FullStudents,
    Origins,
    SharedStudents,
    Students,
    plan_students,
    served_parameters,
    write_layers,
)
from tasks.lm.checkpoints import drop_checkpoints
from tasks.lm.conversion import ModelManifest
from tasks.lm.curves import plot_losses
from tasks.lm.hardware import warn_of_slow_dtype
from tasks.lm.models import prepare_device
from tasks.lm.packing import Pack
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.lm.provenance import write_provenance
from tasks.lm.training import training_identity
from tasks.records.prompt_files import PROMPT
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, seal, verified


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
    settings, form = params.distillation, params.models.numeric_form
    students = _load(params, paths)
    teacher = students.teacher
    template = read_prompt_kit(paths.adapter / PROMPT, teacher.tokenizer)
    memo = paths.scratch / "teacher"
    material = read_material(
        paths.tokens,
        settings,
        students,
        memo,
        max_tokens=params.compute.micro_batch_tokens,
        max_new_tokens=params.prompting.max_new_tokens,
        generation_batch=params.compute.generation_batch,
    )
    influence = block_influence(teacher.model, _some_packs(material, settings.influence_examples))
    plans = plan_students(settings, influence, ModelManifest.read(paths.student_base).digest)
    identity = training_identity(settings, teacher.digest, form, paths.tokens)
    school = School(students, material, settings, paths.scratch, memo, identity)
    with output_folders(paths.students, paths.distillation_report) as (folder, report):
        outcomes = []
        for number, plan in enumerate(plans):
            place = folder / plan.name
            place.mkdir()
            write_layers(plan, influence, settings.layers, place)
            share = (number / len(plans), (number + 1) / len(plans))
            outcomes.append(school.teach(plan, place, share))
            for role in ROLES:
                write_provenance(
                    place / role,
                    base=ModelManifest.read(paths.base).digest,
                    numeric_form=form,
                    teacher=teacher.digest if role == "student" else None,
                    template=template.digest,
                    tokens=paths.tokens,
                    params=settings,
                )
                seal(place / role)
                series = series_of(plan, role)
                plot_losses(paths.scratch, report / f"loss-{series}.png", series, series=series)
        night = Night(
            served_parameters(teacher.model),
            school.teacher_held(),
            tuple(influence),
            tuple(outcomes),
        )
        write_metrics(report, numbers(night, settings))
        plot_influence(night, report / "influence.png")
        write_report(night, settings, report)
    for series in (series_of(plan, role) for plan in plans for role in ROLES):
        drop_checkpoints(paths.scratch / series)


def _load(params: Params, paths: Paths) -> Students:
    settings = params.distillation
    device = prepare_device(params.compute)
    warn_of_slow_dtype(settings.dtype, device)
    origins = Origins(
        paths.base,
        paths.student_base,
        paths.model_store,
        paths.adapter,
        params.models.numeric_form,
        settings.dtype,
        device,
    )
    if settings.weights == "full":
        return FullStudents(origins, settings.saved_dtype)
    return SharedStudents(
        origins, settings.saved_dtype, dequantized=params.compute.dequantized_base
    )


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
