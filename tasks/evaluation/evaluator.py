"""Systems run in turn: base and adapter whole, students as far as it takes to choose one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from tasks.evaluation.forgetting import General
from tasks.evaluation.requests import Request, split_by_mode
from tasks.evaluation.student_choice import Offer, StudentScores
from tasks.evaluation.system_run import ScoreAnswer, SystemResult, no_measure, run_system
from tasks.evaluation.systems import System
from tasks.generation.greedy_decoding import Generation
from tasks.models.loading import LanguageModel
from tasks.models.memory import ReadPeak
from tasks.records.predictions import ROLES, Likelihood, Prediction, Role
from tasks.sequences.likelihood import AnswerLikelihood

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What is found of a system beside its answers; `general` of base and adapter alone."""

    likelihoods: tuple[AnswerLikelihood, ...]
    general: General | None


def measure_system(
    likelihoods: Callable[[LanguageModel], tuple[AnswerLikelihood, ...]],
    general: Callable[[LanguageModel], General] | None,
    model: LanguageModel,
) -> Measured:
    """Take the likelihoods of a model in memory and, where it is given, the general test."""
    return Measured(likelihoods(model), general(model) if general else None)


@dataclass(frozen=True)
class Job:
    """A system, all that it may be asked, and how it is measured while it is in memory."""

    system: System
    requests: tuple[Request, ...]
    measure: Callable[[LanguageModel], Measured]


@dataclass(frozen=True)
class Jobs:
    """All systems of a night; students and their controls by name and role."""

    base: Job
    adapter: Job
    students: Mapping[str, Mapping[Role, Job]]
    external: tuple[Job, ...]


@dataclass(frozen=True)
class RunRules:
    """How systems are run: `mode` is the primary one, `metric` what students are chosen by."""

    mode: str
    metric: str
    all_modes: bool
    score: ScoreAnswer
    begin_peak: Callable[[], ReadPeak | None]
    rank: Callable[[Sequence[StudentScores], Sequence[float]], list[Offer]]


@dataclass(frozen=True)
class EvaluationRun:
    """What every system answered, in the order in which they ran; the first offer is made.

    The pair that it is of is called `student` and `control` in files, others `student-NAME` and
    `control-NAME`: `names` holds the names that differ from a result's key.
    """

    results: tuple[SystemResult[Measured], ...]
    offers: tuple[Offer, ...]
    names: Mapping[str, str]

    def name(self, result: SystemResult[Measured]) -> str:
        """Return what a system is called in files."""
        return self.names.get(result.key, result.key)

    def in_report_order(self) -> dict[str, SystemResult[Measured]]:
        """Return results by name: base, adapter, the chosen pair, other pairs, external systems."""
        chosen = [found for found in self.results if found.key in self.names]
        others = [found for found in self.results[2:] if found.key not in self.names]
        return {self.name(found): found for found in (*self.results[:2], *chosen, *others)}

    def predictions(self) -> list[Prediction]:
        """Return the answers as rows, in the report's order."""
        named = self.in_report_order().items()
        return [row for name, found in named for row in found.predictions(name)]

    def seconds(self) -> dict[str, float]:
        """Return how long each system took, in the report's order."""
        return {name: found.seconds for name, found in self.in_report_order().items()}

    def likelihoods(self) -> list[Likelihood]:
        """Return the likelihoods as rows, in the order of running."""
        return [
            row.named(self.name(found))
            for found in self.results
            for row in found.measured.likelihoods
        ]


@dataclass
class _Runner:
    """Runs jobs one after another, and tells how many of all their requests are done."""

    rules: RunRules
    progress: Progress
    total: int
    done: int = 0

    def run(
        self,
        system: System,
        groups: Sequence[Sequence[Request]],
        measure: Callable[[LanguageModel], T],
        known: Mapping[tuple[int, ...], Generation] = MappingProxyType({}),
    ) -> SystemResult[T]:
        """Run a system on groups of requests, of which empty ones are left out."""
        asked = [group for group in groups if group]
        begun = self.done
        self.done += sum(map(len, asked))
        return run_system(
            system,
            asked,
            score=self.rules.score,
            begin_peak=self.rules.begin_peak,
            measure=measure,
            progress=lambda count: self.progress(begun + count, self.total),
            known=known,
        )


def evaluate_systems(jobs: Jobs, rules: RunRules, progress: Progress) -> EvaluationRun:
    """Run base and adapter in every mode, students in the primary one; choose one, and go on.

    The chosen one is then asked in the other modes too, where `all_modes` has not had all of them
    asked so already. External systems are asked in every mode. One model is in memory at a time.
    """
    mode = rules.mode
    runner = _Runner(rules, progress, _count_answers(jobs, rules))
    base, adapter = (
        runner.run(job.system, split_by_mode(job.requests, mode), job.measure)
        for job in (jobs.base, jobs.adapter)
    )
    groups = 2 if rules.all_modes else 1
    students = {
        name: {
            role: runner.run(job.system, split_by_mode(job.requests, mode)[:groups], job.measure)
            for role, job in pair.items()
        }
        for name, pair in jobs.students.items()
    }
    offers = rules.rank(_scores(students, rules), adapter.scores(mode, rules.metric))
    name = offers[0].name
    role = offers[0].system
    job = jobs.students[name][role]
    first = students[name][role]
    rest = split_by_mode(job.requests, mode)[1]
    if rest and not rules.all_modes:
        later = runner.run(job.system, [rest], no_measure, first.generations)
        students[name][role] = first.followed_by(later)
    external = [
        runner.run(job.system, split_by_mode(job.requests, mode), job.measure)
        for job in jobs.external
    ]
    ran = [found for pair in students.values() for found in pair.values()]
    names = {found.key: role for role, found in students[name].items()}
    return EvaluationRun((base, adapter, *ran, *external), tuple(offers), names)


def _scores(
    students: Mapping[str, Mapping[Role, SystemResult[Measured]]], rules: RunRules
) -> list[StudentScores]:
    return [
        StudentScores(
            name,
            pair["student"].parameters,
            *(pair[role].scores(rules.mode, rules.metric) for role in ROLES),
        )
        for name, pair in students.items()
    ]


def _count_answers(jobs: Jobs, rules: RunRules) -> int:
    """Return how many answers there will be."""
    students = [job for pair in jobs.students.values() for job in pair.values()]
    whole = [jobs.base, jobs.adapter, *jobs.external]
    if rules.all_modes:
        return sum(len(job.requests) for job in (*whole, *students))
    first, rest = split_by_mode(jobs.base.requests, rules.mode)
    return sum(len(job.requests) for job in whole) + len(students) * len(first) + len(rest)
