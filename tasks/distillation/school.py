"""One student's night: it is taught, its twin is not, and both are measured beside the teacher."""

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from tasks.distillation.comparison import Held, measure
from tasks.distillation.lessons import Teacher, answered, taught, untaught
from tasks.distillation.params import DistillationParams
from tasks.distillation.students import Plan, Students, plain, served_parameters, vocabulary
from tasks.distillation.teaching import CachedTeacher, MemoKey, OnlineTeacher
from tasks.lm.batches import Batch, make_batches, read_splits
from tasks.lm.curves import fit_of
from tasks.lm.exactness import prepare_packs
from tasks.lm.fit import Fit
from tasks.lm.losses import SummedLoss
from tasks.lm.memory import release_memory
from tasks.lm.training import TrainingResult, train
from tasks.records.hashing import text_sha256
from tasks.records.predictions import ROLES, Role
from tasks.stage.metrics import keep_series

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """The night's batches: what students learn, what twins learn, and what is held out.

    `overlap` counts the compared examples that also choose the checkpoints.
    """

    taught: list[Batch]
    gold: list[Batch]
    validation: list[Batch]
    compared: list[Batch]
    overlap: int

    def prepared(self, model: PreTrainedModel) -> "Material":
        """The same in packs that this model, too, computes exactly."""
        groups = (self.taught, self.gold, self.validation, self.compared)
        taught, gold, validation, compared = prepare_packs(model, *groups)
        return Material(taught, gold, validation, compared, self.overlap)


@dataclass(frozen=True)
class Trained:
    """How one training went, and what the compared examples say of it before and after.

    `before` is empty for a twin, which begins as its student does.
    """

    training: TrainingResult
    fit: Fit
    parameters: int
    before: list[Held]
    after: list[Held]


@dataclass(frozen=True)
class Outcome:
    """A student and its twin."""

    plan: Plan
    student: Trained
    twin: Trained


def read_material(
    tokens: Path,
    params: DistillationParams,
    students: Students,
    memo: Path,
    identity: str,
    *,
    max_tokens: int,
    max_new_tokens: int,
    generation_batch: int,
) -> Material:
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
        own = answered(
            students.teacher,
            identity,
            learned,
            memo,
            max_new_tokens=max_new_tokens,
            batch_size=generation_batch,
        )
    taught, gold, chosen_by, held = (
        make_batches(group, params, max_tokens=max_tokens)
        for group in (own, learned, validation, compared)
    )
    return Material(taught, gold, chosen_by, held, overlap).prepared(students.teacher.model)


def forget_others(scratch: Path, series: Collection[str]) -> None:
    """Remove the curves and checkpoints of trainings that are not of tonight."""
    keep_series(scratch, series)
    for role in ROLES:
        for path in scratch.glob(f"{role}-*"):
            if path.name not in series:
                shutil.rmtree(path)


def series_of(plan: Plan, role: Role) -> str:
    """The name of a training's curves and checkpoints."""
    return f"{role}-{plan.name}"


class School:
    """Trains students of one teacher, one after another."""

    def __init__(
        self,
        students: Students,
        material: Material,
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

    def teach(self, plan: Plan, place: Path, share: tuple[float, float]) -> Outcome:
        """Train a student and its twin, and write both into an existing folder."""
        middle = sum(share) / 2
        student = self._train(plan, "student", place, (share[0], middle))
        twin = self._train(plan, "twin", place, (middle, share[1]))
        return Outcome(plan, student, twin)

    def _train(self, plan: Plan, role: Role, place: Path, share: tuple[float, float]) -> Trained:
        """Train one of the two, measure it and write it; it leaves memory with this call."""
        model = self._students.make(plan)
        material = self.material.prepared(plain(model))
        online = OnlineTeacher(
            self._students.teacher.model,
            min(vocabulary(self._students.teacher.model), vocabulary(plain(model))),
        )
        before: list[Held] = []
        if role == "student":
            before = measure(model, online, material.compared, online.width)
        series = series_of(plan, role)
        result = train(
            model,
            material.taught if role == "student" else material.gold,
            material.validation,
            self._loss(role, online, material),
            self._params,
            scratch=self._scratch,
            identity=text_sha256(self._identity, plan.origin),
            series=series,
            share=share,
        )
        after = measure(model, online, material.compared, online.width)
        parameters = served_parameters(model)
        self._students.save(model, plan, role, place)
        del model
        release_memory()
        fit = fit_of(self._scratch, result.initial_validation_loss, series=series)
        return Trained(result, fit, parameters, before, after)

    def _loss(self, role: Role, online: OnlineTeacher, material: Material) -> SummedLoss:
        """What a role learns: the twin has no teacher."""
        objective = self._params.objective
        if role == "twin":
            return untaught(objective, online.width)
        teacher: Teacher = online
        if self._params.signal == "cached" and objective.divergence:
            teacher = self._cached(online, material)
        return taught(teacher, objective, online.width)

    def _cached(self, online: OnlineTeacher, material: Material) -> CachedTeacher:
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
