"""How aliases move, as plans: from where they stand to where they should."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.orchestration.ledger import Stage
from tasks.orchestration.versions import Alias
from tasks.promotion.release_params import ReleaseParams

ALIASES: tuple[Alias, ...] = get_args(Alias)
# The one that people are served from is set last.
IN_ORDER: tuple[Alias, ...] = ("candidate", "previous", "staging", "production")
# `candidate` follows the newest version, which is no decision.
DECIDED: tuple[Alias, ...] = ("staging", "production", "previous")
StageTag = Literal["none", "staging", "production", "archived"]
Aliases = Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """Where the aliases go, and the stage for which a person is asked then."""

    after: dict[str, int]
    awaits: Stage | None


def ours(aliases: Aliases) -> dict[str, int]:
    """The aliases that Nightloom moves; people may have others."""
    return {alias: aliases[alias] for alias in ALIASES if alias in aliases}


def stage_tag(number: int, aliases: Aliases) -> StageTag:
    """The tag `stage` of a version: it follows from the aliases alone."""
    if aliases.get("production") == number:
        return "production"
    if aliases.get("staging") == number:
        return "staging"
    return "none" if aliases.get("candidate") == number else "archived"


def reigning(aliases: Aliases) -> str | None:
    """`ALIAS:NUMBER` of the version that reigns; None where that is the base."""
    for alias in ("production", "staging"):
        if alias in aliases:
            return f"{alias}:{aliases[alias]}"
    return None


def moved(aliases: Aliases, number: int, to: Stage) -> dict[str, int]:
    """The aliases once a version is in a stage; `previous` names what was in production before."""
    after = ours(aliases) | {to: number}
    before = aliases.get("production")
    if to == "production" and before not in (None, number):
        after["previous"] = aliases["production"]
    return after


def advance(aliases: Aliases, number: int, params: ReleaseParams, *, reached: Stage | None) -> Plan:
    """How far the policies let a version go by itself, from the stage that it has reached."""
    after = ours(aliases)
    stages: tuple[Stage, ...] = ("staging", "production")
    for stage in stages if reached is None else stages[stages.index(reached) + 1 :]:
        policy = params.staging if stage == "staging" else params.production
        if policy != "automatic":
            return Plan(after, stage if policy == "approval" else None)
        after = moved(after, number, stage)
    return Plan(after, None)
