"""Rows of a data set on the Hugging Face hub, at a pinned revision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.ingestion.sources.source import Found, Kind, Mark
from tasks.records.columns import Columns
from tasks.records.readers import table_line
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class HubSource:
    """The splits of one data set that hold records and documents; `config` may be None."""

    name: str
    config: str | None
    revision: str
    splits: Mapping[Kind, str | None]
    columns: Mapping[Kind, Columns]
    longest: int

    increments = False

    @property
    def origin(self) -> tuple[str, ...]:
        """Return the data set at its revision."""
        return (f"{self.name}@{self.revision}",)

    def read(self, kind: Kind) -> Iterator[Found]:
        """Yield the rows of the split as lines; the data set's own code is never run.

        Raises:
            DataError: the data set can't be loaded.
        """
        import datasets

        split = self.splits[kind]
        if split is None:
            return
        try:
            rows = datasets.load_dataset(
                self.name, self.config, split=split, revision=self.revision
            )
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"can't load split {split!r} of {self.name!r} at revision {self.revision}: {error}",
                "check the name, the split and the network, or give the rows as files",
            ) from None
        file = f"{self.name}/{split}"
        columns = self.columns[kind]
        labels = {
            column: feature.names
            for column, feature in rows.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        for number, row in enumerate(rows, start=1):
            yield Found(file, table_line(number, row, columns, self.longest, labels))

    def updated(self) -> str | None:
        """Return None: a pinned revision never changes."""
        return None

    def marks(self) -> dict[Kind, Mark]:
        """Return None: a revision is read whole."""
        return {}
