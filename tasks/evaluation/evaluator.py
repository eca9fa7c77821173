"""Systems run in turn: base and adapter whole, students as far as it takes to choose one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tasks.evaluation.comparisons import primary_mode
from tasks.evaluation.forgetting import ForgettingTest
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.requests import Request, RequestBuilder, Retriever
from tasks.evaluation.student_choice import Offer, StudentScores, rank_offers
from tasks.evaluation.system_run import LikelihoodTest, PromptSettings, System, SystemResult
from tasks.evaluation.systems import ExternalSystem, ModelFiles
from tasks.models.loading import LanguageModel
from tasks.records.predictions import ROLES, Role
from tasks.retrieval.index import ScoredPassage

Progress = Callable[[int, int], None]

# Something measured of a system while its model is in memory.
Measurement = Callable[[str, LanguageModel], None]


@dataclass(frozen=True)
class ScheduledSystem:
    """One system with all that it may be asked, and what is measured of it besides."""

    subject: System
    questions: tuple[Request, ...]
    measures: tuple[Measurement, ...]


@dataclass(frozen=True)
class Schedule:
    """Everyone who is asked tonight; students and twins by name and role."""

    base: ScheduledSystem
    adapter: ScheduledSystem
    students: Mapping[str, Mapping[Role, ScheduledSystem]]
    guests: tuple[ScheduledSystem, ...]


@dataclass(frozen=True)
class EvaluationRun:
    """What every system answered, and the offers, of which the first is made.

    The pair that it is of is called `student` and `twin`, others `student-NAME` and `twin-NAME`;
    `names` says what each system is called at last that was asked under another name.
    """

    systems: list[SystemResult]
    offers: list[Offer]
    names: Mapping[str, str]


class _Runner:
    """Asks systems and tells how far it is."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def ask(self, sitting: ScheduledSystem, *groups: Sequence[Request]) -> SystemResult:
        """What one system answers to one group of questions after another."""
        system = SystemResult(sitting.subject.name)
        self.ask_more(system, sitting, *groups, measures=sitting.measures)
        return system

    def ask_more(
        self,
        system: SystemResult,
        sitting: ScheduledSystem,
        *groups: Sequence[Request],
        measures: Sequence[Measurement] = (),
    ) -> None:
        """Ask a system more, with its model loaded again."""
        begun = self._done
        asked = [group for group in groups if group]
        system.ask(
            sitting.subject,
            asked,
            lambda count: self._progress(begun + count, self._total),
            measures,
        )
        self._done = begun + sum(map(len, asked))


def run_systems(programme: Schedule, params: EvaluationParams, progress: Progress) -> EvaluationRun:
    """Ask base and adapter in every mode, students and twins in the primary one, choose, go on.

    The offered one is then asked in the other modes too, where `all_modes` has not had all of them
    asked so already. Guests are asked in every mode. One model is in memory at a time.
    """
    questions = programme.base.questions
    mode = primary_mode(params.primary_mode, {question.mode for question in questions})
    interviewer = _Runner(progress, _count_answers(programme, mode, params))
    base, adapter = (
        interviewer.ask(one, *_split_by_mode(one.questions, mode))
        for one in (programme.base, programme.adapter)
    )
    pairs = {
        name: {
            role: interviewer.ask(
                one, *_split_by_mode(one.questions, mode)[: 2 if params.all_modes else 1]
            )
            for role, one in pair.items()
        }
        for name, pair in programme.students.items()
    }
    measured = [
        StudentScores(
            name,
            pair["student"].parameters,
            *(_primary_scores(pair[role], mode, params) for role in ROLES),
        )
        for name, pair in pairs.items()
    ]
    offers = rank_offers(measured, _primary_scores(adapter, mode, params), params)
    if not params.all_modes:
        one = programme.students[offers[0].name][offers[0].system]
        _, rest = _split_by_mode(one.questions, mode)
        interviewer.ask_more(pairs[offers[0].name][offers[0].system], one, rest)
    guests = [
        interviewer.ask(one, *_split_by_mode(one.questions, mode)) for one in programme.guests
    ]
    chosen = pairs.pop(offers[0].name)
    names = {system.name: role for role, system in chosen.items()}
    for role, system in chosen.items():
        _renamed(system, role)
    others = [system for pair in pairs.values() for system in pair.values()]
    systems = [base, adapter, *chosen.values(), *others, *guests]
    return EvaluationRun(systems, offers, names)


def _split_by_mode(questions: Sequence[Request], mode: str) -> tuple[list[Request], list[Request]]:
    """The questions of one mode, and those of all others."""
    return (
        [question for question in questions if question.mode == mode],
        [question for question in questions if question.mode != mode],
    )


def _count_answers(programme: Schedule, mode: str, params: EvaluationParams) -> int:
    """How many answers there will be."""
    sittings = [one for pair in programme.students.values() for one in pair.values()]
    whole = [programme.base, programme.adapter, *programme.guests]
    if params.all_modes:
        return sum(len(one.questions) for one in (*whole, *sittings))
    first, rest = _split_by_mode(programme.base.questions, mode)
    return sum(len(one.questions) for one in whole) + len(sittings) * len(first) + len(rest)


def _primary_scores(system: SystemResult, mode: str, params: EvaluationParams) -> tuple[float, ...]:
    """The primary metric by record, in the order in which they were asked."""
    rows = (row for row in system.predictions if row.mode == mode)
    return tuple(row.score(params.primary_metric) for row in rows)


def _renamed(system: SystemResult, name: str) -> None:
    system.name = name
    system.predictions = [replace(row, system=name) for row in system.predictions]


@dataclass(frozen=True)
class PromptChoices:
    """How the night's own systems are asked: as they were trained, the base in its best way."""

    trained: PromptSettings
    base: PromptSettings


@dataclass(frozen=True)
class Measurements:
    """What every system is put through; the last two gather what they find."""

    examination: RequestBuilder
    likelihood: LikelihoodTest
    forgetting: ForgettingTest


def schedule_systems(
    models: ModelFiles,
    guests: Sequence[ExternalSystem],
    prompts: PromptChoices,
    tests: Measurements,
    library: Retriever,
    found: Sequence[Sequence[ScoredPassage]],
) -> Schedule:
    """Everyone with what they are asked; `found` is what tonight's library has for each record.

    Likelihoods are taken with the trained prompt, so that only the weights differ; a guest with a
    prompt of its own keeps it. Guests with a library of their own are asked from it.
    """
    questions = tests.examination.questions(library, found)
    take = partial(tests.likelihood.measure, prompts.trained.template)
    whole = (take, tests.forgetting.measure)
    students = {
        name: {
            role: ScheduledSystem(
                models.subject(f"{role}-{name}", prompts.trained), questions, (take,)
            )
            for role in ROLES
        }
        for name in models.names()
    }
    return Schedule(
        base=ScheduledSystem(models.subject("base", prompts.base), questions, whole),
        adapter=ScheduledSystem(models.subject("adapter", prompts.trained), questions, whole),
        students=students,
        guests=tuple(_scheduled_external(guest, tests, library, found) for guest in guests),
    )


def _scheduled_external(
    guest: ExternalSystem,
    tests: Measurements,
    library: Retriever,
    found: Sequence[Sequence[ScoredPassage]],
) -> ScheduledSystem:
    if guest.library is not None:
        library, found = guest.library, guest.library.find(tests.examination.records)
    questions = tests.examination.questions(library, found)
    take = partial(tests.likelihood.measure, guest.subject.asking.template)
    return ScheduledSystem(guest.subject, questions, (take,))
