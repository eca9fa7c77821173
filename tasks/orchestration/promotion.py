"""Where a version stands: the aliases and tags that say what it is for, and their moves."""

from tasks.orchestration.registry import MODELS, STAGE_TAG, Alias, Model, Registry, Version
from tasks.promotion.params import PromotionParams
from tasks.stage.errors import ConfigError


def move(registry: Registry, version: Version, params: PromotionParams, *, promoted: bool) -> None:
    """Move a judged version as far as the policies let it go by itself."""
    if promoted and params.staging == "automatic":
        move_to_staging(registry, version)
    if promoted and params.production == "automatic":
        promote(registry, version.model, version.number)


def reigning_name(registry: Registry, model: Model) -> str | None:
    """`ALIAS:NUMBER` of the version that reigns; None where that is the base."""
    aliases = registry.aliases(model)
    for alias in ("production", "staging"):
        if alias in aliases:
            return f"{alias}:{aliases[alias]}"
    return None


def move_to_staging(registry: Registry, version: Version) -> None:
    """Let `staging` name a version; the one that it named before is archived."""
    aliases = registry.aliases(version.model)
    registry.point(version.model, "staging", version.number)
    registry.tag(version, {STAGE_TAG: "staging"})
    before = aliases.get("staging")
    if before not in (None, version.number, aliases.get("production")):
        registry.tag(registry.version(version.model, aliases["staging"]), {STAGE_TAG: "archived"})


def promote(registry: Registry, model: Model, number: int | None) -> Version:
    """The version that `production` then names: the given one, else that of `staging`.

    Raises:
        ConfigError: there is no such version.
    """
    aliases = registry.aliases(model)
    if number is None and "staging" not in aliases:
        raise ConfigError(
            f"no version of the {model} is in staging; found aliases {_shown(aliases)}",
            "run `nightloom run` until a night is promoted, or name one with `--version N`",
        )
    version = registry.version(model, number if number is not None else aliases["staging"])
    _enthrone(registry, version, aliases)
    return version


def roll_back(registry: Registry, model: Model) -> Version:
    """The version that `production` named before, which it then names again.

    Raises:
        ConfigError: nothing was in production before.
    """
    aliases = registry.aliases(model)
    if "previous" not in aliases:
        raise ConfigError(
            f"no version of the {model} was in production before; found aliases {_shown(aliases)}",
            "roll back only after a second `nightloom promote`",
        )
    version = registry.version(model, aliases["previous"])
    _enthrone(registry, version, aliases)
    return version


def _enthrone(registry: Registry, version: Version, aliases: dict[str, int]) -> None:
    before = aliases.get("production")
    if before == version.number:
        return
    if before is not None:
        previous: Alias = "previous"
        registry.point(version.model, previous, before)
    registry.point(version.model, "production", version.number)
    registry.tag(version, {STAGE_TAG: "production"})
    if before is not None:
        registry.tag(registry.version(version.model, before), {STAGE_TAG: "archived"})


def _shown(aliases: dict[str, int]) -> str:
    return ", ".join(f"{name} -> {number}" for name, number in aliases.items()) or "none"


def all_aliases(registry: Registry) -> dict[str, dict[str, int]]:
    """Model -> alias -> version number."""
    return {model: registry.aliases(model) for model in MODELS}
