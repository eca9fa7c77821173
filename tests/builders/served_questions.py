"""Served questions as the log keeps them, of one model and one passage unless told otherwise."""

from datetime import UTC, datetime
from typing import Any

from tasks.feedback.exchanges import Exchange, ShownPassage
from tasks.feedback.served import ServedQuestion

PASSAGE = ShownPassage(id="d#0", text="f returns one.", score=1.0)

_ASKED = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)


def exchange(
    number: int = 0,
    question: str = "What does f return?",
    *,
    system: str | None = None,
    **changes: Any,
) -> Exchange:
    """A question with its answer; `number` makes the completion's id."""
    before = () if system is None else (("system", system),)
    content: dict[str, Any] = {
        "completion": f"chatcmpl-{number:032x}",
        "model": "adapter",
        "version": 1,
        "alias": "production",
        "turns": (*before, ("user", question)),
        "passages": (PASSAGE,),
        "answer": "f returns one.",
        "is_cut": False,
        "asked": _ASKED,
        "seconds": 1.0,
    }
    return Exchange(**content | changes)


def served(trace: str, asked: Exchange, **said: Any) -> ServedQuestion:
    """An exchange as a trace of this name, with what people said of it."""
    nothing: dict[str, Any] = {"correct": None, "expected": None, "note": None, "others": {}}
    return ServedQuestion(trace=trace, exchange=asked, **nothing | said)
