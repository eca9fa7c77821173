"""Train a student and its control, and measure both beside the teacher."""

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tasks.distillation.held_out import HeldOutScore, score_held_out
from tasks.distillation.objective import (
    TeacherSignal,
    control_loss,
    student_loss,
    with_teacher_answers,
)
from tasks.distillation.params import DistillationParams
from tasks.distillation.reconstruction import Reconstruction, reconstruct
from tasks.distillation.students import (
    StudentPlan,
    Students,
    served_parameters,
    unwrapped_model,
    vocabulary,
)
from tasks.distillation.teacher import CachedTeacher, MemoKey, OnlineTeacher, StateMemory
from tasks.models.memory import release_memory
from tasks.records.predictions import ROLES, Role
from tasks.records.text import text_sha256
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import SummedLoss
from tasks.sequences.packing import Batch, Pack
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.metrics import keep_series
from tasks.training.batches import make_batches, read_splits
from tasks.training.diagnostics import Fit, fit_of
from tasks.training.loop import TrainingResult, train

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistillationData:
    """The night's batches: what students learn, what twins learn, and what is held out.

    `further` is what the fit takes beyond what is learned; `overlap` counts the compared examples
    that also choose the checkpoints.
    """

    overlap: int
    taught: list[Batch]
    further: list[Batch]
    gold: list[Batch]
    validation: list[Batch]
    compared: list[Batch]

    def first_packs(self, tokens: int) -> list[Pack]:
        """The first packs of what students learn, then of `further`, to hold so many tokens."""
        packs = [pack for batch in (*self.taught, *self.further) for pack in batch.packs]
        before = accumulate((pack.tokens for pack in packs), initial=0)
        return [pack for pack, held in zip(packs, before, strict=False) if held < tokens]

    def prepared(self, model: PreTrainedModel) -> "DistillationData":
        """The same in packs that this model, too, computes exactly."""
        groups = (self.taught, self.further, self.gold, self.validation, self.compared)
        return DistillationData(self.overlap, *prepare_packs(model, *groups))


@dataclass(frozen=True)
class StudentStart:
    """What a student was before it learned, on the compared examples.

    `made` as it was made, and `fitted` once its layers were fitted to the teacher's states; where
    they were not, `fitted` is empty and `reconstruction` None.
    """

    made: list[HeldOutScore]
    reconstruction: Reconstruction | None
    fitted: list[HeldOutScore]


@dataclass(frozen=True)
class TrainedModel:
    """How one training went, and what the compared examples say of what it made."""

    training: TrainingResult
    fit: Fit
    parameters: int
    held: list[HeldOutScore]


@dataclass(frozen=True)
class StudentOutcome:
    """A student, what it was before it learned, and its twin."""

    plan: StudentPlan
    start: StudentStart
    student: TrainedModel
    twin: TrainedModel


def read_data(
    tokens: Path,
    params: DistillationParams,
    students: Students,
    memo: Path,
    identity: str,
    *,
    max_tokens: int,
    max_new_tokens: int,
    generation_batch: int,
) -> DistillationData:
    """The night's batches, in packs that the teacher computes exactly.

    Validation takes the first of what is held out and the comparison the last, so that they are
    apart unless the split is small. Where the signal is `generated`, students learn the teacher's
    own answers.
    """
    learned, held_out = read_splits(tokens, params)
    validation = held_out[: params.validation_examples]
    compared = held_out[-params.compared_examples :]
    overlap = len(validation) + len(compared) - len({item.id for item in (*validation, *compared)})
    if overlap:
        LOGGER.warning(
            "%d of the %d compared examples also choose the checkpoints: the validation split "
            "holds %d, and %d are needed for both to be apart",
            overlap,
            len(compared),
            len(held_out),
            params.validation_examples + params.compared_examples,
        )
    own = learned
    if params.signal == "generated":
        own = with_teacher_answers(
            students.teacher,
            identity,
            learned,
            memo,
            max_new_tokens=max_new_tokens,
            batch_size=generation_batch,
        )
    further = _further_examples(tokens, params, learned)
    groups = (own, further, learned, validation, compared)
    batches = (make_batches(group, params, max_tokens=max_tokens) for group in groups)
    return DistillationData(overlap, *batches).prepared(students.teacher.model)


def _further_examples(
    tokens: Path, params: DistillationParams, learned: list[Example]
) -> list[Example]:
    """The examples that a budget as large as the calibration's would take beyond the learned."""
    larger = params.model_copy(update={"token_budget": params.calibration_tokens})
    known = {item.id for item in learned}
    return [item for item in read_splits(tokens, larger)[0] if item.id not in known]


def remove_other_trainings(scratch: Path, series: Collection[str]) -> None:
    """Remove the curves and checkpoints of trainings that are not of tonight."""
    keep_series(scratch, series)
    for role in ROLES:
        for path in scratch.glob(f"{role}-*"):
            if path.name not in series:
                shutil.rmtree(path)


def training_series(plan: StudentPlan, role: Role) -> str:
    """The name of a training's curves and checkpoints."""
    return f"{role}-{plan.name}"


@dataclass(frozen=True)
class _Learner:
    """A model about to learn, its batches in packs that it computes exactly, and its teacher."""

    plan: StudentPlan
    role: Role
    model: Any
    material: DistillationData
    online: OnlineTeacher

    def held(self) -> list[HeldOutScore]:
        """What it says of the compared examples, beside its teacher."""
        return score_held_out(self.model, self.online, self.material.compared, self.online.width)


class Distiller:
    """Trains students of one teacher, one after another."""

    def __init__(
        self,
        students: Students,
        material: DistillationData,
        params: DistillationParams,
        scratch: Path,
        memo: Path,
        *,
        teacher_identity: str,
        identity: str,
    ) -> None:
        """Teach with these students' teacher; two identities say what memos and checkpoints are of.

        `teacher_identity` stands for the teacher's weights and how it computes, `identity` for all
        that a training depends on.
        """
        self._students = students
        self.material = material
        self._params = params
        self._scratch = scratch
        self._memo = memo
        self._teacher_identity = teacher_identity
        self._identity = identity
        self._memory = StateMemory()

    def teach(self, plan: StudentPlan, place: Path, share: tuple[float, float]) -> StudentOutcome:
        """Train a student and its twin, and write both into an existing folder."""
        middle = sum(share) / 2
        pupil = self._pupil(plan, "student")
        start = self._start(pupil)
        own = self._params
        if start.reconstruction is not None:
            own = own.model_copy(update={"learning_rate": own.fitted_learning_rate})
        student = self._train(pupil, own, place, (share[0], middle))
        del pupil
        release_memory()
        twin = self._train(self._pupil(plan, "twin"), self._params, place, (middle, share[1]))
        release_memory()
        return StudentOutcome(plan, start, student, twin)

    def _pupil(self, plan: StudentPlan, role: Role) -> _Learner:
        model = self._students.make(plan)
        teacher = self._students.teacher.model
        width = min(vocabulary(teacher), vocabulary(unwrapped_model(model)))
        material = self.material.prepared(unwrapped_model(model))
        for batch in (*material.validation, *material.compared):
            self._memory.want(batch.packs)
        return _Learner(plan, role, model, material, OnlineTeacher(teacher, width, self._memory))

    def _start(self, pupil: _Learner) -> StudentStart:
        """Fit a student of its teacher's layers to the teacher's states, where params say so."""
        made, kept = pupil.held(), pupil.plan.kept
        if kept is None or not self._params.calibration_tokens:
            return StudentStart(made, None, [])
        packs = pupil.material.first_packs(self._params.calibration_tokens)
        found = reconstruct(pupil.online.model, pupil.model, kept, packs, self._memory)
        return StudentStart(made, found, pupil.held())

    def _train(
        self, pupil: _Learner, params: DistillationParams, place: Path, share: tuple[float, float]
    ) -> TrainedModel:
        """Train one of the two, measure it and write it."""
        plan, role, material = pupil.plan, pupil.role, pupil.material
        series = training_series(plan, role)
        result = train(
            pupil.model,
            material.taught if role == "student" else material.gold,
            material.validation,
            self._loss(pupil),
            params,
            scratch=self._scratch,
            identity=text_sha256(self._identity, plan.origin),
            series=series,
            share=share,
        )
        held = pupil.held()
        parameters = served_parameters(pupil.model)
        self._students.save(pupil.model, plan, role, place)
        fit = fit_of(self._scratch, result.initial_validation_loss, series=series)
        return TrainedModel(result, fit, parameters, held)

    def _loss(self, pupil: _Learner) -> SummedLoss:
        """What a role learns: the twin has no teacher."""
        objective, online = self._params.objective, pupil.online
        if pupil.role == "twin":
            return control_loss(objective, online.width)
        teacher: TeacherSignal = online
        if self._params.signal == "cached" and objective.divergence:
            teacher = self._cached(online, pupil.material)
        return student_loss(teacher, objective, online.width)

    def _cached(self, online: OnlineTeacher, material: DistillationData) -> CachedTeacher:
        key = MemoKey(
            self._teacher_identity,
            online.width,
            min(self._params.likeliest, online.width - 1),
            self._params.objective.temperature,
        )
        cached = CachedTeacher(online, key, self._memo)
        batches = (*material.taught, *material.validation)
        cached.prepare(pack for batch in batches for pack in batch.packs)
        return cached
