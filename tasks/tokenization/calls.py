"""Task tools in tokenization: what may not be learned, and what is told of its calls."""

from collections.abc import Mapping, Sequence

from tasks.records.schema import Record
from tasks.records.tool_text import offered, read_said
from tasks.stage.errors import ConfigError
from tasks.task_types.table import TrainedTask
from tasks.task_types.tools import TOOLS, check_calls, is_faulty

_NAMED = 3


def check_tools(
    task: TrainedTask, splits: Mapping[str, Sequence[Record]], demonstrations: int
) -> dict[str, str]:
    """Return the corrections that can't be learned, by the ids of their rows, once the others can.

    These are answers of people whose calls are no JSON, or of no tool that was offered; none of
    another task.

    Raises:
        ConfigError: prompts are to show examples, whose tools are not those of the question.
        DataError: no record calls a tool, or one makes a call that nobody could carry out.
    """
    if task.type != TOOLS:
        return {}
    if demonstrations:
        raise ConfigError(
            f"tokenization.demonstrations is {demonstrations}; examples that call tools which a "
            "prompt does not offer would teach such calls",
            "`--set tokenization.demonstrations=0`",
        )
    faulty = {
        record.id: record.answer
        for record in splits["train"]
        if record.is_feedback and is_faulty(record)
    }
    kept = [record for record in splits["train"] if record.id not in faulty]
    check_calls({**splits, "train": kept})
    return faulty


def call_counts(
    splits: Mapping[str, Sequence[Record]], left_out: Mapping[str, str]
) -> dict[str, object]:
    """Return how many records of each split are offered tools and how many call one, and which
    corrections were left out.
    """
    found: dict[str, object] = {"left_out": sorted(left_out)}
    for split, records in splits.items():
        found[f"offered_{split}"] = sum(bool(offered(record.messages)) for record in records)
        found[f"calling_{split}"] = sum(bool(read_said(one.answer).calls) for one in records)
    return found


def calls_line(found: Mapping[str, object]) -> str:
    """Return it in sentences."""
    counts = ", ".join(
        f"{found[f'calling_{split}']} of {found[f'offered_{split}']} in {split}"
        for split in ("train", "validation", "test")
    )
    left_out = found["left_out"]
    assert isinstance(left_out, list)
    more = ""
    if left_out:
        more = (
            f" {len(left_out)} corrections make calls that nobody could carry out and were left "
            f"out, such as {', '.join(left_out[:_NAMED])}."
        )
    return f"Records that call a tool, of those that are offered some: {counts}.{more}"
