"""Task summarize in tokenization: limits that fit its texts, and what is told of its summaries."""

from collections.abc import Mapping, Sequence

from tasks.records.schema import Record
from tasks.task_types.summarize import longer_than_sources
from tasks.tokenization.limits import Words

_SHOWN = 20
WORDS = Words("texts with their summaries", "summaries", "A text", "a summary")


def summary_counts(splits: Mapping[str, Sequence[Record]]) -> dict[str, object]:
    """Return how many summaries are longer than their text, by split, and some of them by id."""
    found = {split: longer_than_sources(records) for split, records in splits.items()}
    return {
        **{f"longer_than_text_{split}": len(names) for split, names in found.items()},
        "longer_than_text": [name for names in found.values() for name in names][:_SHOWN],
    }


def summaries_line(found: Mapping[str, object]) -> str:
    """Return it in a sentence."""
    names = found["longer_than_text"]
    assert isinstance(names, list)
    counts = ", ".join(
        f"{found[f'longer_than_text_{split}']} of {split}"
        for split in ("train", "validation", "test")
    )
    shown = f" Such as {', '.join(names[:3])}." if names else ""
    return f"Summaries that have more characters than their text: {counts}.{shown}"
