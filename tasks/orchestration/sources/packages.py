"""Rows made of the docstrings of installed packages."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.orchestration.sources.python_docs import read_packages
from tasks.orchestration.sources.source import Found, Kind, Mark
from tasks.records.readers import canonical_json, parse_line


class PackagesSource:
    """Questions about installed packages and their docstrings; all of them are in memory."""

    increments = False

    def __init__(
        self, packages: Sequence[str], *, document_characters: int, unanswerable_share: float
    ) -> None:
        docs = read_packages(
            packages,
            document_characters=document_characters,
            unanswerable_share=unanswerable_share,
        )
        self.origin = tuple(packages)
        self._rows: Mapping[Kind, list[dict[str, Any]]] = {
            "records": docs.records,
            "documents": docs.documents,
        }

    def read(self, kind: Kind) -> Iterator[Found]:
        """The rows as lines, found in the package and version that they are about."""
        for number, row in enumerate(self._rows[kind], start=1):
            yield Found(str(row["source"]), parse_line(number, canonical_json(row)))

    def updated(self) -> str | None:
        """None: a package does not say when its docstrings changed."""
        return None

    def marks(self) -> dict[Kind, Mark]:
        """None: packages are read whole."""
        return {}
