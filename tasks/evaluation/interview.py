"""Who is asked what: base and adapter everything, students as much as it takes to offer one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.evaluation.answers import Subject, System
from tasks.evaluation.choice import Offer, Pair, rank
from tasks.evaluation.comparisons import primary_mode
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.questions import Question
from tasks.lm.models import LanguageModel
from tasks.records.predictions import ROLES, Role

Progress = Callable[[int, int], None]
# Something measured of a system while its model is in memory.
Measure = Callable[[str, LanguageModel], None]


@dataclass(frozen=True)
class Sitting:
    """One system with all that it may be asked, and what is measured of it besides."""

    subject: Subject
    questions: tuple[Question, ...]
    measures: tuple[Measure, ...]


@dataclass(frozen=True)
class Programme:
    """Everyone who is asked tonight; students and twins by name and role."""

    base: Sitting
    adapter: Sitting
    students: Mapping[str, Mapping[Role, Sitting]]
    guests: tuple[Sitting, ...]


@dataclass(frozen=True)
class Interviews:
    """What every system answered, and the offers, of which the first is made.

    The pair that it is of is called `student` and `twin`, others `student-NAME` and `twin-NAME`;
    `names` says what each system is called at last that was asked under another name.
    """

    systems: list[System]
    offers: list[Offer]
    names: Mapping[str, str]


class _Interviewer:
    """Asks systems and tells how far it is."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def ask(self, sitting: Sitting, *groups: Sequence[Question]) -> System:
        """What one system answers to one group of questions after another."""
        system = System(sitting.subject.name)
        self.ask_more(system, sitting, *groups, measures=sitting.measures)
        return system

    def ask_more(
        self,
        system: System,
        sitting: Sitting,
        *groups: Sequence[Question],
        measures: Sequence[Measure] = (),
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


def interview(programme: Programme, params: EvaluationParams, progress: Progress) -> Interviews:
    """Ask base and adapter in every mode, students and twins in the primary one, choose, go on.

    The offered one is then asked in the other modes too, where `all_modes` has not had all of them
    asked so already. Guests are asked in every mode. One model is in memory at a time.
    """
    questions = programme.base.questions
    mode = primary_mode(params.primary_mode, {question.mode for question in questions})
    interviewer = _Interviewer(progress, _count(programme, mode, params))
    base, adapter = (
        interviewer.ask(one, *_split(one.questions, mode))
        for one in (programme.base, programme.adapter)
    )
    pairs = {
        name: {
            role: interviewer.ask(one, *_split(one.questions, mode)[: 2 if params.all_modes else 1])
            for role, one in pair.items()
        }
        for name, pair in programme.students.items()
    }
    measured = [
        Pair(
            name, pair["student"].parameters, *(_scores(pair[role], mode, params) for role in ROLES)
        )
        for name, pair in pairs.items()
    ]
    offers = rank(measured, _scores(adapter, mode, params), params)
    if not params.all_modes:
        one = programme.students[offers[0].name][offers[0].system]
        _, rest = _split(one.questions, mode)
        interviewer.ask_more(pairs[offers[0].name][offers[0].system], one, rest)
    guests = [interviewer.ask(one, *_split(one.questions, mode)) for one in programme.guests]
    chosen = pairs.pop(offers[0].name)
    names = {system.name: role for role, system in chosen.items()}
    for role, system in chosen.items():
        _rename(system, role)
    others = [system for pair in pairs.values() for system in pair.values()]
    systems = [base, adapter, *chosen.values(), *others, *guests]
    return Interviews(systems, offers, names)


def _split(questions: Sequence[Question], mode: str) -> tuple[list[Question], list[Question]]:
    """The questions of one mode, and those of all others."""
    return (
        [question for question in questions if question.mode == mode],
        [question for question in questions if question.mode != mode],
    )


def _count(programme: Programme, mode: str, params: EvaluationParams) -> int:
    """How many answers there will be."""
    sittings = [one for pair in programme.students.values() for one in pair.values()]
    whole = [programme.base, programme.adapter, *programme.guests]
    if params.all_modes:
        return sum(len(one.questions) for one in (*whole, *sittings))
    first, rest = _split(programme.base.questions, mode)
    return sum(len(one.questions) for one in whole) + len(sittings) * len(first) + len(rest)


def _scores(system: System, mode: str, params: EvaluationParams) -> tuple[float, ...]:
    """The primary metric by record, in the order in which they were asked."""
    rows = (row for row in system.predictions if row.mode == mode)
    return tuple(row.score(params.primary_metric) for row in rows)


def _rename(system: System, name: str) -> None:
    system.name = name
    system.predictions = [replace(row, system=name) for row in system.predictions]
