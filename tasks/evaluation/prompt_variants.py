"""Prompt variants (zero-shot, few-shot, with a reasoning step) compared on validation records."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.evaluation.params import EvaluationParams, VariantName, VariantParams
from tasks.evaluation.requests import Request
from tasks.evaluation.system_run import PromptSettings, ReadTemplate, System, SystemResult
from tasks.prompting.files import TEMPLATE
from tasks.prompting.prompt_bundle import read_template
from tasks.prompting.templates import PromptTemplate, as_turns, choose_demonstrations
from tasks.records.schema import Record
from tasks.statistics.bootstrap import Interval, bootstrap_mean

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variants:
    """The ways of asking that are compared, in params' order, and which of them is served.

    `trained` is the served prompt where it has demonstrations; where it has none it is the same as
    `zero_shot`.
    """

    askings: Mapping[VariantName, PromptSettings]
    served: VariantName


@dataclass(frozen=True)
class VariantComparison:
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
class VariantChoice:
    """With which variant the base is asked, and the comparison that chose it, if there was one."""

    base: VariantName
    served: VariantName
    comparison: VariantComparison | None

    def numbers(self) -> dict[str, Any]:
        """As `metrics.json` holds it."""
        found: dict[str, Any] = {"base": self.base, "served": self.served, "comparison": None}
        if self.comparison is None:
            return found | {"comparison_reason": "params name one prompt for the base"}
        best = {system: self.comparison.best(system) for system in self.comparison.scores}
        return found | {"comparison": asdict(self.comparison) | {"best": best}}


def make_variants(
    params: VariantParams, trained: PromptSettings, kit: Path, train: Callable[[], Sequence[Record]]
) -> Variants:
    """The variants that params name, and the served one.

    `kit` is the folder of the trained prompt; `train` reads the training split, which only few_shot
    needs.

    Raises:
        ConfigError: a template can't be used.
        DataError: the training split is too small for the demonstrations.
    """
    own = kit / TEMPLATE
    makers: dict[VariantName, Callable[[], PromptSettings]] = {
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
    base: System,
    adapter: System,
    questions: Callable[[], Sequence[Request]],
    params: EvaluationParams,
) -> VariantChoice:
    """With which variant the base is asked: the one that params name, or the best of several.

    Several are compared on `questions`, for the adapter too: what it was trained with is served
    whatever comes out, and the comparison says whether another prompt would do better.
    """
    compared = params.variants.compared
    if len(compared) == 1:
        return VariantChoice(compared[0], variants.served, None)
    comparison = _compare_variants([base, adapter], variants.askings, questions(), params)
    return VariantChoice(comparison.best(base.name), variants.served, comparison)


def _compare_variants(
    subjects: Sequence[System],
    askings: Mapping[VariantName, PromptSettings],
    questions: Sequence[Request],
    params: EvaluationParams,
) -> VariantComparison:
    scores: dict[str, dict[VariantName, Interval]] = {}
    for subject in subjects:
        found = scores.setdefault(subject.name, {})
        for name, asking in askings.items():
            system = SystemResult(subject.name)
            system.ask(replace(subject, asking=asking), [questions], lambda _: None)
            found[name] = bootstrap_mean(
                [row.score(params.primary_metric) for row in system.predictions],
                confidence=params.confidence,
                resamples=params.resamples,
                seed=params.seed,
            )
            LOGGER.info("%s, prompt %s: %.3f", subject.name, name, found[name].value)
    return VariantComparison(questions[0].mode, params.primary_metric, len(questions), scores)
