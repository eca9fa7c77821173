"""Task summarize: a text is told in fewer words, with nothing that it does not say."""

from collections.abc import Mapping, Sequence

from tasks.records.schema import Record
from tasks.records.text import normalise
from tasks.stage.errors import DataError
from tasks.task_types.definition import TaskType

SUMMARIZE = TaskType(
    name="summarize",
    prompt="summarize",
    says="a summary",
    # A mean over records, so that comparisons are paired by record.
    metric="rouge_l",
    metrics=(
        "rouge_1",
        "rouge_2",
        "rouge_l",
        "length_ratio",
        "compression",
        "reference_compression",
        "longer_than_source",
        "supported_terms",
        "supported_sentences",
        "unsupported_share",
        "reference_unsupported_share",
        "empty_outputs",
        "broken_outputs",
        "cut_outputs",
    ),
    shown=("rouge_l", "supported_terms"),
    rules=frozenset({"faithful"}),
    unasked={
        "groundedness": "a summary claims what its own text says: faithful asks for that",
        "abstention": "there is always a text to summarize, so no summary abstains",
        "shadow": "good summaries of one text are seldom alike: that they differ says nothing",
        "instructions": "a summarizer is asked for summaries, and for nothing else",
    },
)

_NAMED = 5


def check_summaries(splits: Mapping[str, Sequence[Record]]) -> None:
    """Check that every record has a text and a summary of it.

    Raises:
        DataError: one of them is empty.
    """
    rows = [(record, split) for split, records in splits.items() for record in records]
    texts = {
        "summary": [record.answer for record, _ in rows],
        "text to summarize": [record.question for record, _ in rows],
    }
    for what, column in texts.items():
        found = [
            f"{record.id} ({split})"
            for (record, split), text in zip(rows, column, strict=True)
            if not normalise(text)
        ]
        if found:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise DataError(
                f"{len(found)} records have an empty {what}: {', '.join(found[:_NAMED])}{more}; "
                "expected a text and its summary, or a model learns to say nothing",
                "leave such rows out of the source, or look where their text went (columns in "
                "params/ingestion.yaml)",
            )


def longer_than_sources(records: Sequence[Record]) -> list[str]:
    """Return the records whose summary has more characters than its text, by their ids."""
    return [
        record.id
        for record in records
        if len(normalise(record.answer)) > len(normalise(record.question))
    ]
