"""An answer's calls, taken out of its text as OpenAI's API gives them back."""

import uuid
from collections.abc import Sequence
from typing import Any

from tasks.records.tool_text import CALL, Call, given_back


def message_fields(text: str, at_most: int | None) -> dict[str, Any]:
    """Return what an assistant's message holds of an answer; beside calls, no words are null."""
    words, calls = given_back(text, at_most)
    if not calls:
        return {"content": words}
    return {"content": words or None, "tool_calls": call_objects(calls)}


def call_objects(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Return calls as OpenAI's objects, each with an id of its own."""
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_text},
        }
        for call in calls
    ]


class WordStream:
    """The words of an answer as its text comes, up to its first call.

    What may still become a call is held back, and so is what follows one.
    """

    def __init__(self, begins: str, at_most: int | None) -> None:
        self._at_most = at_most
        self._text = begins
        self._given = 0

    def feed(self, text: str) -> str:
        """Return the words that are certain with one more piece; often none."""
        self._text += text
        begin = self._text.find(CALL, max(0, self._given - len(CALL)))
        end = begin if begin >= 0 else len(self._text) - _open_characters(self._text)
        return self._up_to(len(self._text[:end].rstrip()))

    def rest(self, whole: str) -> tuple[str, list[dict[str, Any]]]:
        """Return the words that were held back and the calls, of an answer that is whole."""
        words, calls = given_back(whole, self._at_most)
        return words[self._given :], call_objects(calls)

    def _up_to(self, end: int) -> str:
        begin, self._given = self._given, max(self._given, end)
        return self._text[begin : self._given]


def _open_characters(text: str) -> int:
    """Return how many characters at the end may be the beginning of a call."""
    lengths = range(min(len(CALL) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(CALL[:length])), 0)
