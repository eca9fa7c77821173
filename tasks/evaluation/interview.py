"""Who is asked what: base and adapter everything, students as much as it takes to offer one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tasks.evaluation.aggregates import primary_mode
from tasks.evaluation.answers import Asking, ModelFiles, System
from tasks.evaluation.choice import Offer, Pair, rank
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.questions import Question
from tasks.records.predictions import ROLES

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Interviews:
    """What every system answered, and the offers, of which the first is made.

    The pair that it is of is called `student` and `twin`, others `student-NAME` and `twin-NAME`.
    """

    systems: list[System]
    offers: list[Offer]


class _Interviewer:
    """Asks systems and tells how far it is."""

    def __init__(self, models: ModelFiles, asking: Asking, progress: Progress, total: int) -> None:
        self._models = models
        self._asking = asking
        self._progress = progress
        self._total = total
        self._done = 0

    def ask(self, system: System, *groups: Sequence[Question]) -> System:
        """Ask one system one group of questions after another."""
        begun = self._done
        system.ask(
            self._models,
            groups,
            self._asking,
            lambda count: self._progress(begun + count, self._total),
        )
        self._done = begun + sum(map(len, groups))
        return system


def interview(
    models: ModelFiles,
    questions: Sequence[Question],
    asking: Asking,
    params: EvaluationParams,
    progress: Progress,
) -> Interviews:
    """Ask base and adapter in every mode, students and twins in the primary one, choose, go on.

    The offered one is then asked in the other modes too. One model is in memory at a time.
    """
    mode = primary_mode(params.primary_mode, {question.mode for question in questions})
    first = [question for question in questions if question.mode == mode]
    rest = [question for question in questions if question.mode != mode]
    names = models.names()
    total = 2 * len(questions) + 2 * len(names) * len(first) + len(rest)
    interviewer = _Interviewer(models, asking, progress, total)
    base = interviewer.ask(System("base"), first, rest)
    adapter = interviewer.ask(System("adapter"), first, rest)
    pairs = {
        name: {role: interviewer.ask(System(f"{role}-{name}"), first) for role in ROLES}
        for name in names
    }
    measured = [
        Pair(
            name, pair["student"].parameters, *(_scores(pair[role], mode, params) for role in ROLES)
        )
        for name, pair in pairs.items()
    ]
    offers = rank(measured, _scores(adapter, mode, params), params)
    interviewer.ask(pairs[offers[0].name][offers[0].system], rest)
    chosen = pairs.pop(offers[0].name)
    for role, system in chosen.items():
        _rename(system, role)
    others = [system for pair in pairs.values() for system in pair.values()]
    return Interviews([base, adapter, *chosen.values(), *others], offers)


def _scores(system: System, mode: str, params: EvaluationParams) -> tuple[float, ...]:
    """The primary metric by record, in the order in which they were asked."""
    rows = (row for row in system.predictions if row.mode == mode)
    return tuple(row.score(params.primary_metric) for row in rows)


def _rename(system: System, name: str) -> None:
    system.name = name
    system.predictions = [replace(row, system=name) for row in system.predictions]
