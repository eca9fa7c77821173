"""The sample that a limit asks for: the same rows every night, chosen by hashed id."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import TypeVar

from tasks.ingestion.row_ids import lasting_part
from tasks.ingestion.sources.source import Found
from tasks.records.readers import Line
from tasks.records.text import id_form, text_sha256

Row = TypeVar("Row", bound=Found)


@dataclass(frozen=True)
class Sample:
    """The rows whose order is at most `last`, and those that are `needed` by id, in NFC.

    An order is the hash of a row's id and its position, so that it is the same every night; of an
    id that is made of a row's content the part of the question counts.
    `last` is None where none is kept by order.
    """

    last: tuple[str, int] | None
    needed: frozenset[str]

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows that it keeps."""
        for position, found in enumerate(rows):
            by_order = self.last is not None and (_order(found.line), position) <= self.last
            if by_order or id_form(_identifier(found.line)) in self.needed:
                yield found


def choose_records(rows: Iterable[Found], limit: int) -> Sample:
    """Choose the sample of `limit` records."""
    return Sample(_last(_orders(rows), limit), frozenset())


def choose_documents(rows: Iterable[Found], needed: frozenset[str]) -> Sample:
    """Choose the documents that are needed, and as many more, at least one."""
    present = 0

    def others() -> Iterator[tuple[str, int]]:
        nonlocal present
        for position, found in enumerate(rows):
            if id_form(_identifier(found.line)) in needed:
                present += 1
            else:
                yield _order(found.line), position

    smallest = nsmallest(max(len(needed), 1), others())
    kept = smallest[: max(present, 1)]
    return Sample(kept[-1] if kept else None, needed)


def gold(line: Line) -> list[str]:
    """Return the ids of the documents that a record names, in NFC."""
    found = (line.row or {}).get("documents")
    return [id_form(str(name)) for name in found] if isinstance(found, list) else []


def _orders(rows: Iterable[Found]) -> Iterator[tuple[str, int]]:
    return ((_order(found.line), position) for position, found in enumerate(rows))


def _last(orders: Iterable[tuple[str, int]], count: int) -> tuple[str, int] | None:
    smallest = nsmallest(count, orders)
    return smallest[-1] if smallest else None


def _identifier(line: Line) -> str:
    return str((line.row or {}).get("id", ""))


def _order(line: Line) -> str:
    return text_sha256("limit", lasting_part(_identifier(line)) or line.raw.hex())
