"""What every source gives: lines, where each was found, and how new they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from tasks.records.readers import Line

Kind = Literal["records", "documents"]
KINDS: tuple[Kind, ...] = ("records", "documents")


@dataclass(frozen=True, slots=True)
class Found:
    """A line and the file, package, query or split in which it was found."""

    file: str
    line: Line


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a query was read: the greatest value of its `since` column.

    `query` is a digest of the database, the query and the column: a mark holds for these alone.
    `type` is the value's type in Python, `value` its text.
    """

    query: str
    type: str
    value: str


class Source(Protocol):
    """Rows of one place in the world."""

    @property
    def origin(self) -> tuple[str, ...]:
        """Return what people would name the place by; it holds no secrets."""

    @property
    def increments(self) -> bool:
        """Whether only what is new since the last intake is offered, which may be nothing."""

    def read(self, kind: Kind) -> Iterator[Found]:
        """Yield the lines offered now, one at a time; it can be called again."""

    def updated(self) -> str | None:
        """Return when the rows last changed, as an ISO time in UTC; None if the source can't say.

        Asked once the rows were read.
        """

    def marks(self) -> dict[Kind, Mark]:
        """Return how far each query was read, for the next night to go on from."""
