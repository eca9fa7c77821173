"""What one rule of promotion found."""

from dataclasses import dataclass
from typing import Literal

Model = Literal["adapter", "student"]


@dataclass(frozen=True)
class Reason:
    """What one rule found: the value it looked at and the bound it held it to, where it has any.

    A rule that warns is told where it did not pass, and refuses nothing.
    """

    rule: str
    passed: bool
    text: str
    value: float | None
    bound: float | None
    warns: bool = False
