"""What a task decides: how it asks, by which metric it is judged, and which rules ask nothing."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskType:
    """One task that a model can be trained for.

    `prompt` is the stem of its templates in `params/prompts`; `says` is what it asks for. `metric`
    is the score of a record that systems are compared and decided by, None where params name it.
    `unasked` are rules of promotion that have nothing to ask of it, each with the reason; `rules`
    are those that only such tasks have. `metrics` must be there for each system and mode, or
    nothing is promoted; `shown` are the two of them that short tables show.
    """

    name: str
    prompt: str
    says: str
    metric: str | None
    metrics: tuple[str, ...]
    shown: tuple[str, str]
    rules: frozenset[str] = frozenset()
    unasked: Mapping[str, str] | None = None

    def why_unasked(self, rule: str) -> str | None:
        """Return why a rule has nothing to ask of this task, None where it has."""
        return (self.unasked or {}).get(rule)
