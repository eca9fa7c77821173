"""Tonight's programme: each system with its prompt, its questions and what is measured of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tasks.evaluation.answers import Asking
from tasks.evaluation.examination import Examination
from tasks.evaluation.forgetting import ForgettingTest
from tasks.evaluation.interview import Programme, Sitting
from tasks.evaluation.library import Library
from tasks.evaluation.likelihood import LikelihoodTest
from tasks.evaluation.subjects import Guest, ModelFiles
from tasks.records.predictions import ROLES
from tasks.serving.retrieval import ScoredPassage


@dataclass(frozen=True)
class Prompts:
    """How the night's own systems are asked: as they were trained, the base in its best way."""

    trained: Asking
    base: Asking


@dataclass(frozen=True)
class Tests:
    """What every system is put through; the last two gather what they find."""

    examination: Examination
    likelihood: LikelihoodTest
    forgetting: ForgettingTest


def plan(
    models: ModelFiles,
    guests: Sequence[Guest],
    prompts: Prompts,
    tests: Tests,
    library: Library,
    found: Sequence[Sequence[ScoredPassage]],
) -> Programme:
    """Everyone with what they are asked; `found` is what tonight's library has for each record.

    Likelihoods are taken with the trained prompt, so that only the weights differ; a guest with a
    prompt of its own keeps it. Guests with a library of their own are asked from it.
    """
    questions = tests.examination.questions(library, found)
    take = partial(tests.likelihood.measure, prompts.trained.template)
    whole = (take, tests.forgetting.measure)
    students = {
        name: {
            role: Sitting(models.subject(f"{role}-{name}", prompts.trained), questions, (take,))
            for role in ROLES
        }
        for name in models.names()
    }
    return Programme(
        base=Sitting(models.subject("base", prompts.base), questions, whole),
        adapter=Sitting(models.subject("adapter", prompts.trained), questions, whole),
        students=students,
        guests=tuple(_sitting(guest, tests, library, found) for guest in guests),
    )


def _sitting(
    guest: Guest,
    tests: Tests,
    library: Library,
    found: Sequence[Sequence[ScoredPassage]],
) -> Sitting:
    if guest.library is not None:
        library, found = guest.library, guest.library.find(tests.examination.records)
    questions = tests.examination.questions(library, found)
    take = partial(tests.likelihood.measure, guest.subject.asking.template)
    return Sitting(guest.subject, questions, (take,))
