"""Prompt variants (zero-shot, few-shot, with a reasoning step) compared on validation records."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.evaluation.answers import Asking, ReadTemplate, Subject, System
from tasks.evaluation.params import EvaluationParams, VariantName, VariantParams
from tasks.evaluation.questions import Question
from tasks.lm.demonstrations import as_turns, choose_demonstrations
from tasks.lm.prompt_kit import read_template
from tasks.lm.prompts import PromptTemplate
from tasks.records.prompt_files import TEMPLATE
from tasks.records.record import Record
from tasks.statistics.intervals import Interval, bootstrap_mean

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variants:
    """The ways of asking that are compared, in params' order, and which of them is served.

    `trained` is the served prompt where it has demonstrations; where it has none it is the same as
    `zero_shot`.
    """

    askings: Mapping[VariantName, Asking]
    served: VariantName


@dataclass(frozen=True)
class Comparison:
    """How every system did with every variant on the same validation records."""

    mode: str
    metric: str
    records: int
    scores: Mapping[str, Mapping[VariantName, Interval]]

    def best(self, system: str) -> VariantName:
        """The variant with the highest mean; of equal ones the one named first in params."""
        found = self.scores[system]
        return max(found, key=lambda name: found[name].value)


@dataclass(frozen=True)
class Choice:
    """With which variant the base is asked, and the comparison that chose it, if there was one."""

    base: VariantName
    served: VariantName
    comparison: Comparison | None

    def numbers(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        found: dict[str, Any] = {"base": self.base, "served": self.served, "comparison": None}
        if self.comparison is None:
            return found | {"comparison_reason": "params name one prompt for the base"}
        best = {system: self.comparison.best(system) for system in self.comparison.scores}
        return found | {"comparison": asdict(self.comparison) | {"best": best}}


def make_variants(
    params: VariantParams, trained: Asking, kit: Path, train: Callable[[], Sequence[Record]]
) -> Variants:
    """The variants that params name, and the served one.

    `kit` is the folder of the trained prompt; `train` reads the training split, which only few_shot
    needs.

    Raises:
        ConfigError: a template can't be used.
        DataError: the training split is too small for the demonstrations.
    """
    own = kit / TEMPLATE
    makers: dict[VariantName, Callable[[], Asking]] = {
        "trained": lambda: trained,
        "zero_shot": lambda: replace(trained, template=_fixed(own, [])),
        "few_shot": lambda: replace(
            trained,
            template=_fixed(
                own, choose_demonstrations(train(), params.demonstrations, params.seed)
            ),
        ),
        "reasoning": lambda: replace(
            trained,
            template=_fixed(Path(params.template), []),
            max_new_tokens=params.max_new_tokens,
            answer_after=params.answer_after,
        ),
    }
    served: VariantName = "trained" if read_template(kit).demonstrations else "zero_shot"
    names = dict.fromkeys([*params.compared, served])
    return Variants({name: makers[name]() for name in names}, served)


def _fixed(path: Path, shown: Sequence[Record]) -> ReadTemplate:
    template = PromptTemplate.load(path, as_turns(shown))
    return lambda _: template


def choose_variant(
    variants: Variants,
    base: Subject,
    adapter: Subject,
    questions: Callable[[], Sequence[Question]],
    params: EvaluationParams,
) -> Choice:
    """With which variant the base is asked: the one that params name, or the best of several.

    Several are compared on `questions`, for the adapter too: what it was trained with is served
    whatever comes out, and the comparison says whether another prompt would do better.
    """
    compared = params.variants.compared
    if len(compared) == 1:
        return Choice(compared[0], variants.served, None)
    comparison = _compare([base, adapter], variants.askings, questions(), params)
    return Choice(comparison.best(base.name), variants.served, comparison)


def _compare(
    subjects: Sequence[Subject],
    askings: Mapping[VariantName, Asking],
    questions: Sequence[Question],
    params: EvaluationParams,
) -> Comparison:
    scores: dict[str, dict[VariantName, Interval]] = {}
    for subject in subjects:
        found = scores.setdefault(subject.name, {})
        for name, asking in askings.items():
            system = System(subject.name)
            system.ask(replace(subject, asking=asking), [questions], lambda _: None)
            found[name] = bootstrap_mean(
                [row.score(params.primary_metric) for row in system.predictions],
                confidence=params.confidence,
                resamples=params.resamples,
                seed=params.seed,
            )
            LOGGER.info("%s, prompt %s: %.3f", subject.name, name, found[name].value)
    return Comparison(questions[0].mode, params.primary_metric, len(questions), scores)
