"""An answer's calls, taken out of its text as OpenAI's API gives them back."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.tool_text import CALL, Call, next_call


@dataclass(frozen=True)
class Given:
    """What is given back of an answer: its words, and its calls.

    What is tagged as a call and is none stays among the words, so that nothing is lost.
    """

    words: str
    calls: tuple[Call, ...] = ()

    @classmethod
    def of(cls, text: str, at_most: int | None) -> "Given":
        """Return what is given back of a whole answer's text, with so many calls."""
        words, calls, place = "", [], 0
        while (begin := text.find(CALL, place)) >= 0:
            words += text[place:begin]
            call, place = next_call(text, begin)
            if call is None:
                words += text[begin:place]
            else:
                calls.append(call)
        return cls((words + text[place:]).strip(), tuple(calls[:at_most]))

    def message(self) -> dict[str, Any]:
        """Return the fields of an assistant's message; with calls, one without words has null."""
        if not self.calls:
            return {"content": self.words}
        return {"content": self.words or None, "tool_calls": call_objects(self.calls)}


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
        found = Given.of(whole, self._at_most)
        return found.words[self._given :], call_objects(found.calls)

    def _up_to(self, end: int) -> str:
        begin, self._given = self._given, max(self._given, end)
        return self._text[begin : self._given]


def _open_characters(text: str) -> int:
    """Return how many characters at the end may be the beginning of a call."""
    lengths = range(min(len(CALL) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(CALL[:length])), 0)
