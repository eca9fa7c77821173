"""Who is asked what: base and adapter everything, students as much as it takes to offer one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tasks.evaluation.answers import Asking, ModelFiles, System
from tasks.evaluation.choice import Offer, Pair, choose
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.questions import Question

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Interviews:
    """What every system answered, and the student that is offered.

    The pair that the offer is of is called `student` and `twin`, others `student-NAME`.
    """

    systems: list[System]
    offer: Offer


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
    modes = {question.mode for question in questions}
    mode = params.primary_mode if params.primary_mode in modes else "closed_book"
    first = [question for question in questions if question.mode == mode]
    rest = [question for question in questions if question.mode != mode]
    names = models.names()
    total = 2 * len(questions) + 2 * len(names) * len(first) + len(rest)
    done = 0

    def ask(system: System, asked: Sequence[Question]) -> System:
        nonlocal done
        begun = done
        system.ask(models, asked, asking, lambda count: progress(begun + count, total))
        done = begun + len(asked)
        return system

    base, adapter = (ask(System(name), questions) for name in ("base", "adapter"))
    pairs = {
        name: {
            "student": ask(System(f"student-{name}"), first),
            "twin": ask(System(f"twin-{name}"), first),
        }
        for name in names
    }
    measured = [
        Pair(
            name,
            pair["student"].parameters,
            _scores(pair["student"], mode, params),
            _scores(pair["twin"], mode, params),
        )
        for name, pair in pairs.items()
    ]
    offer = choose(measured, _scores(adapter, mode, params), params)
    ask(pairs[offer.name][offer.system], rest)
    chosen = pairs.pop(offer.name)
    for name, system in chosen.items():
        _rename(system, name)
    others = [system for pair in pairs.values() for system in pair.values()]
    return Interviews([base, adapter, *chosen.values(), *others], offer)


def _scores(system: System, mode: str, params: EvaluationParams) -> tuple[float, ...]:
    """The primary metric by record, in the order in which they were asked."""
    rows = (row for row in system.predictions if row.mode == mode)
    return tuple(row.score(params.primary_metric) for row in rows)


def _rename(system: System, name: str) -> None:
    system.name = name
    system.predictions = [replace(row, system=name) for row in system.predictions]
