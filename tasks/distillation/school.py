"""One student's night: it is taught, its twin is not, and both are measured beside the teacher."""

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tasks.distillation.comparison import Held, measure
from tasks.distillation.lessons import Teacher, answered, taught, untaught
from tasks.distillation.params import DistillationParams
from tasks.distillation.reconstruction import Reconstruction, reconstruct
from tasks.distillation.states import StateMemory
from tasks.distillation.students import Plan, Students, plain, served_parameters, vocabulary
from tasks.distillation.teaching import CachedTeacher, MemoKey, OnlineTeacher
from tasks.lm.batches import Batch, make_batches, read_splits
from tasks.lm.curves import fit_of
from tasks.lm.exactness import prepare_packs
from tasks.lm.examples import Example
from tasks.lm.fit import Fit
from tasks.lm.losses import SummedLoss
from tasks.lm.memory import release_memory
from tasks.lm.packing import Pack
from tasks.lm.training import TrainingResult, train
from tasks.records.hashing import text_sha256
from tasks.records.predictions import ROLES, Role
from tasks.stage.metrics import keep_series

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
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

    def prepared(self, model: PreTrainedModel) -> "Material":
        """The same in packs that this model, too, computes exactly."""
        groups = (self.taught, self.further, self.gold, self.validation, self.compared)
        return Material(self.overlap, *prepare_packs(model, *groups))


@dataclass(frozen=True)
class Start:
    """What a student was before it learned, on the compared examples.

    `made` as it was made, and `fitted` once its layers were fitted to the teacher's states; where
    they were not, `fitted` is empty and `reconstruction` None.
    """

    made: list[Held]
    reconstruction: Reconstruction | None
    fitted: list[Held]


@dataclass(frozen=True)
class Trained:
    """How one training went, and what the compared examples say of what it made."""

    training: TrainingResult
    fit: Fit
    parameters: int
    held: list[Held]


@dataclass(frozen=True)
class Outcome:
    """A student, what it was before it learned, and its twin."""

    plan: Plan
    start: Start
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
    further = _further(tokens, params, learned)
    groups = (own, further, learned, validation, compared)
    batches = (make_batches(group, params, max_tokens=max_tokens) for group in groups)
    return Material(overlap, *batches).prepared(students.teacher.model)


def _further(tokens: Path, params: DistillationParams, learned: list[Example]) -> list[Example]:
    """The examples that a budget as large as the calibration's would take beyond the learned."""
    larger = params.model_copy(update={"token_budget": params.calibration_tokens})
    known = {item.id for item in learned}
    return [item for item in read_splits(tokens, larger)[0] if item.id not in known]


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


@dataclass(frozen=True)
class _Pupil:
    """A model about to learn, its batches in packs that it computes exactly, and its teacher."""

    plan: Plan
    role: Role
    model: Any
    material: Material
    online: OnlineTeacher

    def held(self) -> list[Held]:
        """What it says of the compared examples, beside its teacher."""
        return measure(self.model, self.online, self.material.compared, self.online.width)


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
        self._memory = StateMemory()

    def teach(self, plan: Plan, place: Path, share: tuple[float, float]) -> Outcome:
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
        return Outcome(plan, start, student, twin)

    def _pupil(self, plan: Plan, role: Role) -> _Pupil:
        model = self._students.make(plan)
        teacher = self._students.teacher.model
        width = min(vocabulary(teacher), vocabulary(plain(model)))
        material = self.material.prepared(plain(model))
        for batch in (*material.validation, *material.compared):
            self._memory.want(batch.packs)
        return _Pupil(plan, role, model, material, OnlineTeacher(teacher, width, self._memory))

    def _start(self, pupil: _Pupil) -> Start:
        """Fit a student of its teacher's layers to the teacher's states, where params say so."""
        made, kept = pupil.held(), pupil.plan.kept
        if kept is None or not self._params.calibration_tokens:
            return Start(made, None, [])
        packs = pupil.material.first_packs(self._params.calibration_tokens)
        found = reconstruct(pupil.online.model, pupil.model, kept, packs, self._memory)
        return Start(made, found, pupil.held())

    def _train(
        self, pupil: _Pupil, params: DistillationParams, place: Path, share: tuple[float, float]
    ) -> Trained:
        """Train one of the two, measure it and write it."""
        plan, role, material = pupil.plan, pupil.role, pupil.material
        series = series_of(plan, role)
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
        return Trained(result, fit, parameters, held)

    def _loss(self, pupil: _Pupil) -> SummedLoss:
        """What a role learns: the twin has no teacher."""
        objective, online = self._params.objective, pupil.online
        if pupil.role == "twin":
            return untaught(objective, online.width)
        teacher: Teacher = online
        if self._params.signal == "cached" and objective.divergence:
            teacher = self._cached(online, pupil.material)
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
