"""Prompt variants (zero-shot, few-shot, with a reasoning step) compared on validation records."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tasks.evaluation.params import VariantName, VariantParams
from tasks.evaluation.requests import Request
from tasks.evaluation.systems import PromptSettings, System
from tasks.prompting.files import TEMPLATE
from tasks.prompting.prompt_bundle import read_template
from tasks.prompting.templates import PromptTemplate, as_turns, choose_demonstrations
from tasks.records.schema import Record
from tasks.statistics.bootstrap import Interval

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variants:
    """The prompts that are compared, in params' order, and which of them is served.

    `trained` is the served prompt where it has demonstrations; where it has none it is the same as
    `zero_shot`.
    """

    prompts: Mapping[VariantName, PromptSettings]
    served: VariantName


@dataclass(frozen=True)
class VariantComparison:
    """How every system did with every variant on the same validation records."""

    mode: str
    metric: str
    records: int
    scores: Mapping[str, Mapping[VariantName, Interval]]

    def best(self, system: str) -> VariantName:
        """Return the variant with the highest mean; of equal ones the one named first in params."""
        found = self.scores[system]
        return max(found, key=lambda name: found[name].value)


@dataclass(frozen=True)
class VariantChoice:
    """With which variant the base is asked, and the comparison that chose it, if there was one."""

    base: VariantName
    served: VariantName
    comparison: VariantComparison | None

    def numbers(self) -> dict[str, Any]:
        """Return it as `metrics.json` holds it."""
        found: dict[str, Any] = {"base": self.base, "served": self.served, "comparison": None}
        if self.comparison is None:
            return found | {"comparison_reason": "params name one prompt for the base"}
        best = {system: self.comparison.best(system) for system in self.comparison.scores}
        return found | {"comparison": asdict(self.comparison) | {"best": best}}


def make_variants(
    params: VariantParams, trained: PromptSettings, kit: Path, train: Callable[[], Sequence[Record]]
) -> Variants:
    """Return the variants that params name, and the served one.

    `kit` is the folder of the trained prompt; `train` reads the training split, which only few_shot
    needs.

    Raises:
        ConfigError: a template can't be used.
        DataError: the training split is too small for the demonstrations.
    """
    own = kit / TEMPLATE
    templates: dict[VariantName, Callable[[], PromptTemplate]] = {
        "zero_shot": partial(PromptTemplate.load, own),
        "few_shot": partial(_few_shot, own, params, train),
        "reasoning": partial(PromptTemplate.load, Path(params.template)),
    }
    served: VariantName = "trained" if read_template(kit).demonstrations else "zero_shot"
    prompts: dict[VariantName, PromptSettings] = {}
    for name in (*params.compared, served):
        if name == "trained":
            prompts[name] = trained
        else:
            prompts[name] = replace(trained, template=partial(_fixed, templates[name]()))
    if "reasoning" in prompts:
        prompts["reasoning"] = replace(
            prompts["reasoning"],
            generate=partial(trained.generate, max_new_tokens=params.max_new_tokens),
            answer_after=params.answer_after,
        )
    return Variants(prompts, served)


def _few_shot(
    path: Path, params: VariantParams, train: Callable[[], Sequence[Record]]
) -> PromptTemplate:
    shown = choose_demonstrations(train(), params.demonstrations, params.seed)
    return PromptTemplate.load(path, as_turns(shown))


def _fixed(template: PromptTemplate, tokenizer: object) -> PromptTemplate:
    """Return the same template whatever the tokenizer."""
    return template


def choose_variant(
    variants: Variants,
    compared: Sequence[VariantName],
    systems: Sequence[System],
    requests: Callable[[], Sequence[Request]],
    metric: str,
    score: Callable[[System, Sequence[Request]], Interval],
) -> VariantChoice:
    """Return with which variant the first system is asked: the best of those compared.

    One alone is taken as it is. Several are compared on `requests`, for all systems: what they were
    trained with is served whatever comes out, and the comparison says whether another prompt would
    do better. `score` runs a system, and returns the mean of the metric.
    """
    if len(compared) == 1:
        return VariantChoice(compared[0], variants.served, None)
    asked = requests()
    scores: dict[str, dict[VariantName, Interval]] = {}
    for system in systems:
        found = scores.setdefault(system.name, {})
        for name, prompt in variants.prompts.items():
            found[name] = score(replace(system, prompt=prompt), asked)
            LOGGER.info("%s, prompt %s: %.3f", system.name, name, found[name].value)
    comparison = VariantComparison(asked[0].mode, metric, len(asked), scores)
    return VariantChoice(comparison.best(systems[0].name), variants.served, comparison)
