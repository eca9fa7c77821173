"""Which version a question goes to: the one that an alias names."""

from collections.abc import Mapping

from tasks.records.orders import ServedName
from tasks.stage.errors import ConfigError

# Without an alias: the first of these that names a version.
ORDER = ("production", "staging", "candidate")


def choose_version(
    aliases: Mapping[str, int], model: ServedName, alias: str | None = None
) -> tuple[str, int]:
    """An alias and the number of the version that it names.

    Raises:
        ConfigError: the alias is not in lower case, or names no version.
    """
    if alias is not None and alias != alias.lower():
        raise ConfigError(
            f"the alias {alias!r} has capitals; MLflow tells {alias} and {alias.lower()} apart, "
            "and nights set aliases in lower case alone",
            f"ask for {alias.lower()}",
        )
    wanted = ORDER if alias is None else (alias,)
    name = next((item for item in wanted if item in aliases), None)
    if name is None:
        shown = ", ".join(aliases) or "none"
        raise ConfigError(
            f"no version of the {model} is named {' or '.join(wanted)}; found aliases: {shown}",
            "run `nightloom run`, which registers one",
        )
    return name, aliases[name]
