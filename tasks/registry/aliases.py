"""Aliases: which version each names, where a decision moves them, and which one a request gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.records.schema import ServedModel
from tasks.registry.params import ReleaseParams
from tasks.registry.versions import Alias, RegistryStage
from tasks.stage.errors import ConfigError

ALIASES: tuple[Alias, ...] = get_args(Alias)

# The one that people are served from is set last.
SETTING_ORDER: tuple[Alias, ...] = ("candidate", "previous", "staging", "production")

# `candidate` follows the newest version, which is no decision.
DECIDED_ALIASES: tuple[Alias, ...] = ("staging", "production", "previous")

StageTag = Literal["none", "staging", "production", "archived"]

Aliases = Mapping[str, int]


@dataclass(frozen=True)
class AliasPlan:
    """Where the aliases go, and the stage for which a person is asked then."""

    after: dict[str, int]
    awaits: RegistryStage | None


def own_aliases(aliases: Aliases) -> dict[str, int]:
    """Return the aliases that Nightloom moves; people may have others."""
    return {alias: aliases[alias] for alias in ALIASES if alias in aliases}


def stage_tag(number: int, aliases: Aliases) -> StageTag:
    """Return the tag `stage` of a version, which follows from the aliases alone."""
    if aliases.get("production") == number:
        return "production"
    if aliases.get("staging") == number:
        return "staging"
    return "none" if aliases.get("candidate") == number else "archived"


@dataclass(frozen=True)
class Champion:
    """The version that a challenger is compared with, and the alias that makes it so."""

    alias: Alias
    number: int

    @property
    def name(self) -> str:
        """`ALIAS:NUMBER`, as evidence and verdicts name it."""
        return f"{self.alias}:{self.number}"


def find_champion(aliases: Aliases) -> Champion | None:
    """Return the version that `production` names, else `staging`; None if the base is champion."""
    order: tuple[Alias, ...] = ("production", "staging")
    return next((Champion(alias, aliases[alias]) for alias in order if alias in aliases), None)


def aliases_after(aliases: Aliases, number: int, to: RegistryStage) -> dict[str, int]:
    """Return the aliases once a version is in a stage; `previous` keeps what was in production."""
    after = own_aliases(aliases) | {to: number}
    before = aliases.get("production")
    if to == "production" and before not in (None, number):
        after["previous"] = aliases["production"]
    return after


def advance(
    aliases: Aliases, number: int, params: ReleaseParams, *, reached: RegistryStage | None
) -> AliasPlan:
    """Plan how far the policies let a version go by itself, from the stage that it has reached."""
    after = own_aliases(aliases)
    stages: tuple[RegistryStage, ...] = ("staging", "production")
    for stage in stages if reached is None else stages[stages.index(reached) + 1 :]:
        policy = params.staging if stage == "staging" else params.production
        if policy != "automatic":
            return AliasPlan(after, stage if policy == "approval" else None)
        after = aliases_after(after, number, stage)
    return AliasPlan(after, None)


# Without an alias: the first of these that names a version.
SERVING_ORDER = ("production", "staging", "candidate")


def choose_version(
    aliases: Mapping[str, int], model: ServedModel, alias: str | None = None
) -> tuple[str, int]:
    """Return an alias and the number of the version that it names.

    Raises:
        ConfigError: the alias is not in lower case, or names no version.
    """
    if alias is not None and alias != alias.lower():
        raise ConfigError(
            f"the alias {alias!r} has capitals; MLflow tells {alias} and {alias.lower()} apart, "
            "and nights set aliases in lower case alone",
            f"ask for {alias.lower()}",
        )
    wanted = SERVING_ORDER if alias is None else (alias,)
    name = next((item for item in wanted if item in aliases), None)
    if name is None:
        shown = ", ".join(aliases) or "none"
        raise ConfigError(
            f"no version of the {model} is named {' or '.join(wanted)}; found aliases: {shown}",
            "run `nightloom run`, which registers one",
        )
    return name, aliases[name]
