"""Train a student and its control, and measure both beside the teacher."""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.distillation.data import DistillationData
from tasks.distillation.held_out import HeldOutScore, score_held_out
from tasks.distillation.objective import TeacherSignal, distillation_loss
from tasks.distillation.params import DistillationParams
from tasks.distillation.pruning import StudentPlan
from tasks.distillation.reconstruction import Reconstruction, reconstruct
from tasks.distillation.students import Students, served_parameters, unwrapped_model, vocabulary
from tasks.distillation.teacher import OnlineTeacher, Teacher
from tasks.models.memory import release_memory
from tasks.records.predictions import ROLES, Role
from tasks.stage.metrics import keep_series
from tasks.training.diagnostics import Fit, fit_of
from tasks.training.loop import TrainingResult

Share = tuple[float, float]


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
    """A student, what it was before it learned, and what became of it and of its control."""

    plan: StudentPlan
    start: StudentStart
    trained: Mapping[Role, TrainedModel]


@dataclass(frozen=True)
class _Learner:
    """A model about to learn, its batches in packs that it computes exactly, and its teacher."""

    model: Any
    data: DistillationData
    online: OnlineTeacher

    def held(self) -> list[HeldOutScore]:
        """Score it on the compared examples, beside its teacher."""
        return score_held_out(self.model, self.online, self.data.compared, self.online.width)


@dataclass(frozen=True)
class _Training:
    """One of a plan's two trainings: whose it is, from which rate, and where it is written."""

    plan: StudentPlan
    role: Role
    identity: str
    rate: float | Literal["find"]
    folder: Path
    share: Share


@dataclass(frozen=True)
class Distiller:
    """The one trainer of students.

    `train` is `tasks.training.loop.train` with the stage's scratch folder, in which curves and
    checkpoints lie.
    """

    students: Students
    params: DistillationParams
    train: Callable[..., TrainingResult]
    scratch: Path

    def distill(
        self,
        plan: StudentPlan,
        data: DistillationData,
        teacher: Teacher,
        identity: str,
        folder: Path,
        share: Share,
    ) -> StudentOutcome:
        """Train a student and its control, and write both into an existing folder.

        `identity` stands for all that the two depend on; they are that `share` of the stage.
        """
        params, middle = self.params, sum(share) / 2
        model = self.students.make(plan)
        learner = _learner(model, data, teacher)
        start = _start(learner, teacher, plan.kept)
        fitted = start.reconstruction is not None
        rate = params.fitted_learning_rate if fitted else params.learning_rate
        training = _Training(plan, "student", identity, rate, folder, (share[0], middle))
        student = self._train(training, learner, self._signal(learner, teacher))
        del model, learner
        release_memory()
        model = self.students.make(plan)
        learner = _learner(model, data, teacher)
        rate = params.learning_rate
        training = _Training(plan, "control", identity, rate, folder, (middle, share[1]))
        control = self._train(training, learner, None)
        del model, learner
        release_memory()
        return StudentOutcome(plan, start, {"student": student, "control": control})

    def _train(
        self, training: _Training, learner: _Learner, signal: TeacherSignal | None
    ) -> TrainedModel:
        """Train one of the two, measure it and write it."""
        plan, role = training.plan, training.role
        series = training_series(plan, role)
        result = self.train(
            learner.model,
            learner.data.learned_by(role),
            learner.data.validation,
            distillation_loss(signal, self.params.objective, learner.online.width),
            self.params.model_copy(update={"learning_rate": training.rate}),
            identity=training.identity,
            series=series,
            share=training.share,
        )
        held = learner.held()
        parameters = served_parameters(learner.model)
        self.students.save(learner.model, plan, role, training.folder)
        fit = fit_of(self.scratch, result.initial_validation_loss, series=series)
        return TrainedModel(result, fit, parameters, held)

    def _signal(self, learner: _Learner, teacher: Teacher) -> TeacherSignal:
        """Return what the student learns from its teacher: computed along, or from a memo."""
        params = self.params
        if params.signal != "cached" or not params.objective.divergence:
            return learner.online
        return teacher.cached(
            learner.online,
            learner.data.signal_packs(),
            likeliest=params.likeliest,
            temperature=params.objective.temperature,
        )


def _learner(model: Any, data: DistillationData, teacher: Teacher) -> _Learner:
    """Return a fresh model with the data and the teacher as it can take them."""
    width = min(vocabulary(teacher.model), vocabulary(unwrapped_model(model)))
    exact = data.prepared(unwrapped_model(model))
    teacher.states.want(exact.held_out_packs())
    return _Learner(model, exact, teacher.online(width))


def _start(learner: _Learner, teacher: Teacher, kept: Sequence[int] | None) -> StudentStart:
    """Fit a student of its teacher's layers to the teacher's states, where params say so."""
    made, packs = learner.held(), learner.data.fitted_packs()
    if kept is None or not packs:
        return StudentStart(made, None, [])
    found = reconstruct(teacher.model, learner.model, kept, packs, teacher.states)
    return StudentStart(made, found, learner.held())


def remove_other_trainings(scratch: Path, series: Collection[str]) -> None:
    """Remove the curves and checkpoints of trainings that are not of tonight."""
    keep_series(scratch, series)
    for role in ROLES:
        for path in scratch.glob(f"{role}-*"):
            if path.name not in series:
                shutil.rmtree(path)


def training_series(plan: StudentPlan, role: Role) -> str:
    """Return the name of a training's curves and checkpoints."""
    return f"{role}-{plan.name}"
