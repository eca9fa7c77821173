"""Task tools: a question is answered by calls of functions, or in words where none is needed."""

from collections.abc import Mapping, Sequence

from tasks.records.schema import Record
from tasks.records.tool_text import offered, read_said, unoffered
from tasks.stage.errors import DataError
from tasks.task_types.definition import TaskType

TOOLS = TaskType(
    name="tools",
    prompt="tools",
    says="a call or an answer",
    # A mean over records, so that comparisons are paired by record.
    metric="turn_score",
    metrics=(
        "turn_score",
        "call_match",
        "name_match",
        "words_f1",
        "missed_calls",
        "needless_calls",
        "broken_call_share",
        "unoffered_call_share",
        "invalid_call_share",
        "broken_outputs",
        "cut_outputs",
    ),
    shown=("turn_score", "call_match"),
    rules=frozenset({"valid_calls"}),
    unasked={
        "groundedness": "a call claims nothing that passages could support: valid_calls asks of it",
        "abstention": "a question that no tool and no passage answers has no fixed answer here",
        "shadow": "two calls differ by one letter or by all: their texts say nothing of it",
    },
)

_NAMED = 5


def check_calls(splits: Mapping[str, Sequence[Record]]) -> None:
    """Check that tools are offered and called, and that what is learned are calls of them.

    Raises:
        DataError: no training record calls a tool, or a record's calls are broken, such as by what
            masked personal data.
    """
    faulty = [
        f"{record.id} ({split})"
        for split, records in splits.items()
        for record in records
        if is_faulty(record)
    ]
    if faulty:
        more = f" and {len(faulty) - _NAMED} more" if len(faulty) > _NAMED else ""
        raise DataError(
            f"{len(faulty)} records answer with a call that is no JSON, or of a tool that they are "
            f"not offered: {', '.join(faulty[:_NAMED])}{more}; a model would learn to make such "
            "calls",
            "look at what curation masked in them (personal_data in params/curation.yaml) and at "
            "corrections that people typed; mend the rows or leave them out",
        )
    train = splits["train"]
    if not any(read_said(record.answer).calls for record in train):
        offering = sum(bool(offered(record.messages)) for record in train)
        raise DataError(
            f"none of {len(train)} training records calls a tool ({offering} are offered some); "
            "expected assistant's turns with tool_calls as the last of some conversations",
            "take in rows that call tools (docs/guides/tools.md), or use `--set task.name=answer`",
        )


def is_faulty(record: Record) -> bool:
    """Return whether a record's answer holds a call that nobody could carry out."""
    said = read_said(record.answer)
    return bool(said.broken) or bool(unoffered(said.calls, offered(record.messages)))
