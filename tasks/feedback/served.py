"""A served question, as it is kept with what people and other models said."""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.feedback.exchanges import Exchange


@dataclass(frozen=True)
class ServedQuestion:
    """An exchange that was kept. What people said of it last is None where nobody did.

    `others` are what other versions answer to the same question, by `MODEL-VERSION`.
    """

    trace: str
    exchange: Exchange
    correct: bool | None
    expected: str | None
    note: str | None
    others: Mapping[str, str]
