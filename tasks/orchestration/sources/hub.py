"""Rows of a data set on the Hugging Face hub, at a pinned revision."""

from collections.abc import Iterator, Mapping

from tasks.records.readers import Line, canonical_json, parse_line
from tasks.stage.errors import DataError


def read_hub(
    name: str, config: str | None, split: str, revision: str, columns: Mapping[str, str]
) -> Iterator[Line]:
    """The rows of one split as lines, with columns renamed; code of the data set's is never run.

    Raises:
        DataError: the data set can't be loaded.
    """
    import datasets

    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"can't load split {split!r} of {name!r} at revision {revision}: {error}",
            "check the name, the split and the network, or give the rows as files",
        ) from None
    for number, row in enumerate(rows, start=1):
        present = {columns.get(key, key): value for key, value in row.items() if value is not None}
        present.setdefault("id", f"{name}/{split}/{number - 1}")
        yield _line(number, present)


def _line(number: int, row: dict[str, object]) -> Line:
    try:
        return parse_line(number, canonical_json(row))
    except (ValueError, TypeError) as error:
        return Line(number, repr(row).encode(errors="replace"), None, f"can't be JSON: {error}")
