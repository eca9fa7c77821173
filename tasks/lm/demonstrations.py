"""Few-shot demonstrations: examples of the training split that every prompt shows first."""

from collections.abc import Sequence
from itertools import chain, zip_longest

from tasks.records.hashing import text_sha256
from tasks.records.record import Message, Record
from tasks.stage.errors import DataError


def choose_demonstrations(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """The records to show, chosen by hash, from each slice in turn.

    They come from the training split alone, and are then not learned from: an example that stands
    in its own prompt teaches copying.

    Raises:
        DataError: there are not enough records.
    """
    if len(records) <= count:
        raise DataError(
            f"the training split holds {len(records)} records and every prompt is to show {count}; "
            "expected more, so that some are left to learn from",
            "lower the number of demonstrations in params, or take more data in",
        )
    slices: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda item: text_sha256("shown", str(seed), item.id)):
        slices.setdefault(record.slice, []).append(record)
    in_turn = chain.from_iterable(zip_longest(*(slices[name] for name in sorted(slices))))
    return [record for record in in_turn if record is not None][:count]


def as_turns(records: Sequence[Record]) -> list[Message]:
    """The last question and answer of each record, as the turns of one chat."""
    return [turn for record in records for turn in record.messages[-2:]]
