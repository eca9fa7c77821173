"""What a model card says by the task that a model was trained for."""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks.records.predictions import SCORE_NAMES
from tasks.task_types.answer import ANSWER
from tasks.task_types.chat import CHAT
from tasks.task_types.classify import CLASSIFY
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.table import TASK_FILE, TrainedTask
from tasks.task_types.tools import TOOLS

_MOST_LABELS = 20


@dataclass(frozen=True)
class TaskCard:
    """What a task is called on the Hub, the scores beside the one that decides, and more tags."""

    hub_task: str
    beside: tuple[str, ...]
    tags: tuple[str, ...] = ()


CARDS: Mapping[str, TaskCard] = {
    ANSWER.name: TaskCard("question-answering", SCORE_NAMES, ("retrieval",)),
    CHAT.name: TaskCard("text-generation", SCORE_NAMES, ("conversational", "retrieval")),
    CLASSIFY.name: TaskCard("text-classification", ("macro_f1", "outside_labels")),
    SUMMARIZE.name: TaskCard(
        "summarization",
        ("rouge_1", "rouge_2", "compression", "supported_terms", "unsupported_share"),
    ),
    TOOLS.name: TaskCard(
        "text-generation",
        ("call_match", "words_f1", "missed_calls", "needless_calls", "invalid_call_share"),
        ("retrieval", "function-calling"),
    ),
}


def purpose(task: TrainedTask) -> list[str]:
    """Return the lines on what such a model is for."""
    if task.type == SUMMARIZE:
        return [
            "Summaries of texts like those in its data: the text is the question. What a summary "
            "says may still be wrong; the table tells how often its numbers and names are not in "
            "the text."
        ]
    if task.type == CHAT:
        return [
            "Replies in conversations of the kind in its data, each from all turns before it and, "
            "where there are any, passages of its own index, which are searched by the "
            "conversation. Scores are means over conversations of the means over their turns, "
            "each asked with the right turns before it: after a wrong turn of its own it may do "
            "worse."
        ]
    if task.type == TOOLS:
        return [
            "Calls of functions, of those that a request offers, or short answers where none is "
            "needed. Functions, calls and results stand in the conversation as Hermes and Qwen "
            "write them; `nightloom serve` speaks OpenAI's `tools` and `tool_calls`. Who carries "
            "calls out checks their arguments first."
        ]
    if not task.labels:
        return [
            "Short answers to questions of the kind in its data, read from passages of its own "
            "index, or `I don't know` where these do not tell."
        ]
    shown = ", ".join(f"`{label}`" for label in task.labels[:_MOST_LABELS])
    more = len(task.labels) - _MOST_LABELS
    said = (
        "It can say nothing else"
        if task.constrained
        else "It says what it likes, which may be none of them"
    )
    return [
        f"One label a text, of {len(task.labels)}: {shown}{f' and {more} more' * (more > 0)}. "
        f"{said}. All of them are in `adapter/prompt/{TASK_FILE}`. A text that fits none of them "
        "gets one all the same."
    ]
