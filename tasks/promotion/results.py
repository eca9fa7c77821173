"""What the rules of promotion found, and what that does to the verdict."""

from dataclasses import dataclass
from typing import Literal

from tasks.statistics.bootstrap import Interval

RuleOutcome = Literal["passed", "refused", "warned", "off"]


@dataclass(frozen=True)
class RuleResult:
    """What a rule found: a number, the bound it was held to and its interval, where there are any.

    `place` is the slice that it is of, None for all records. `mild`: it is never more than a
    warning, however severe the rule. `off`: there was nothing to ask, and the text says why.
    """

    holds: bool
    text: str
    value: float | None = None
    bound: float | None = None
    interval: Interval | None = None
    place: str | None = None
    mild: bool = False
    off: bool = False


def nothing_to_ask(text: str) -> RuleResult:
    """Return the result of a rule that has nothing to look at tonight, and why."""
    return RuleResult(True, text, off=True)


@dataclass(frozen=True)
class Reason:
    """One row of a verdict: a rule (`RULE/SLICE` of a slice), what it found and what that did."""

    rule: str
    outcome: RuleOutcome
    text: str
    value: float | None
    bound: float | None
    interval: Interval | None

    @property
    def passed(self) -> bool:
        """Return whether it has nothing against the candidate."""
        return self.outcome in ("passed", "off")

    def row(self) -> dict[str, str | float | None]:
        """Return it as JSON and tables hold it: a column a number, null if there is none."""
        low, high = (
            (None, None) if self.interval is None else (self.interval.low, self.interval.high)
        )
        return {
            "rule": self.rule,
            "outcome": self.outcome,
            "found": self.value,
            "low": low,
            "high": high,
            "bound": self.bound,
            "text": self.text,
        }
