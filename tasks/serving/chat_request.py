"""The body of `POST /v1/chat/completions`: what each of OpenAI's parameters does here.

A parameter is honoured, or has no effect and is named in the answer's header, or is refused by
name where doing without it would give another answer than was asked for. `null` is as if it were
left out. docs/guides/serving.md has the table.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from tasks.records.schema import Message, ServedModel
from tasks.serving.openai_api import RequestError, served_name
from tasks.serving.tool_request import (
    ToolChoice,
    ignored_of_tools,
    tool_choice,
    turns_with_tools,
)

_MOST_STOPS = 16
_LONGEST_STOP = 200
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class _Bounded:
    """A parameter of which only such values can be answered, None among them, and why."""

    values: tuple[Any, ...]
    why: str


_GREEDY = "which asks for sampling; this server answers greedily, as its versions were evaluated"
_UNTRAINED = "and the model was not trained to call tools"
_NO_SCORES = "and answers come without the scores of their tokens"
_BOUNDED = {
    "temperature": _Bounded((0, 1), _GREEDY),
    "top_p": _Bounded((1,), _GREEDY),
    "n": _Bounded((1,), _GREEDY),
    "presence_penalty": _Bounded((0,), _GREEDY),
    "frequency_penalty": _Bounded((0,), _GREEDY),
    "logit_bias": _Bounded(({},), "and scores are taken as the model gives them"),
    "logprobs": _Bounded((False,), _NO_SCORES),
    "top_logprobs": _Bounded((0,), _NO_SCORES),
    "tools": _Bounded(([],), _UNTRAINED),
    "tool_choice": _Bounded(("none", "auto"), _UNTRAINED),
    "functions": _Bounded(([],), _UNTRAINED),
    "function_call": _Bounded(("none", "auto"), _UNTRAINED),
    "response_format": _Bounded(({"type": "text"},), "and nothing holds an answer to a form"),
    "modalities": _Bounded((["text"], []), "and answers are text"),
    "audio": _Bounded((), "and answers are text"),
    "web_search_options": _Bounded((), "and only the passages of the bundle are searched"),
    "moderation": _Bounded((), "and nothing is moderated here"),
}
# What is honoured where the model was trained to call tools.
_OF_TOOLS = ("tools", "tool_choice")
_TOOL_OPTIONS = (*_OF_TOOLS, "parallel_tool_calls")
_TURNS_OF_TOOLS = ("tool_calls", "tool_call_id")
# Of one turn; null and empty, as clients send an answer back, say nothing.
_REFUSED_IN_TURNS = {
    "tool_calls": _UNTRAINED,
    "function_call": _UNTRAINED,
    "audio": "and only text is read",
    "refusal": "and only content is read",
}


class _Open(BaseModel):
    """An object of which fields that are not known here have no effect."""

    model_config = ConfigDict(extra="allow")

    @property
    def others(self) -> dict[str, Any]:
        """Return the unknown fields that say something."""
        return {name: value for name, value in (self.model_extra or {}).items() if _says(value)}


class _Part(_Open):
    type: str
    text: str | None = None


def _kind(content: object) -> str | None:
    """Return which of a text, a list and null a value is."""
    if isinstance(content, list):
        return "parts"
    return "none" if content is None else "text" if isinstance(content, str) else None


def _by_kind(expected: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="kind", custom_error_message=expected)


_Nothing = Annotated[None, Tag("none")]
_Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[_Part], Tag("parts")] | _Nothing,
    _by_kind("Expected text, or a list of parts of type text"),
]


class ChatMessage(_Open):
    """One turn; content is text, or parts that are text. A developer's turn is the system's."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content = None

    @property
    def is_of_tools(self) -> bool:
        """Return whether it calls a tool, or is the result of a call."""
        return self.role == "tool" or "tool_calls" in self.others

    def turn(self, number: int) -> Message:
        """Return the turn as the answering core knows it; `number` is its place.

        Raises:
            RequestError: it holds what is no text.
        """
        if self.role == "tool":
            raise RequestError(
                f"message {number} has the role tool, {_UNTRAINED}; expected 'system', "
                "'developer', 'user' or 'assistant'",
                param=f"messages.{number}.role",
                code="unsupported_value",
            )
        self._refuse(number, _REFUSED_IN_TURNS)
        return Message(self._role, self._text(number))

    def row(self, number: int) -> dict[str, Any]:
        """Return the turn with its calls, or with the call that it is the result of.

        Raises:
            RequestError: it holds what is neither text nor a call.
        """
        self._refuse(number, {n: why for n, why in _REFUSED_IN_TURNS.items() if n != "tool_calls"})
        calls = self.others.get("tool_calls")
        text = "" if calls and self.content is None else self._text(number)
        of_tools = {"tool_calls": calls, "tool_call_id": self.others.get("tool_call_id")}
        return {"role": self._role, "content": text} | (of_tools if self.is_of_tools else {})

    @property
    def _role(self) -> str:
        return "system" if self.role == "developer" else self.role

    def _refuse(self, number: int, refused: Mapping[str, str]) -> None:
        for name, why in refused.items():
            if name in self.others:
                raise RequestError(
                    f"message {number} has {name}, {why}: leave {name} out",
                    param=f"messages.{number}.{name}",
                    code="unsupported_parameter",
                )

    def _text(self, number: int) -> str:
        if isinstance(self.content, list):
            return "\n".join(_text_of(part, number) for part in self.content)
        if self.content is None:
            raise RequestError(
                f"message {number} has no content; expected text, or a list of parts of type text",
                param=f"messages.{number}.content",
            )
        return self.content

    def ignored(self) -> Iterator[str]:
        """Yield the names of fields that have no effect."""
        honoured = _TURNS_OF_TOOLS if self.is_of_tools else ()
        yield from (name for name in self.others if name not in honoured)
        if isinstance(self.content, list):
            yield from (f"content.{name}" for part in self.content for name in part.others)


def _text_of(part: _Part, number: int) -> str:
    if part.type != "text" or part.text is None:
        raise RequestError(
            f"message {number} has a part of type {_shown(part.type)} "
            f"{'without text' if part.type == 'text' else ''}; only parts with text are read",
            param=f"messages.{number}.content",
            code="unsupported_value",
        )
    return part.text


class _StreamOptions(_Open):
    include_usage: bool | None = None


_Stop = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]
_Stops = Annotated[
    Annotated[_Stop, Tag("text")]
    | Annotated[list[_Stop], Field(max_length=_MOST_STOPS), Tag("parts")]
    | _Nothing,
    _by_kind("Expected a text or a list of texts"),
]


class ChatRequest(_Open):
    """The body of `POST /v1/chat/completions`.

    `seed` is honoured: answers are greedy, so the same each time.
    """

    model: str = Field(max_length=100)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: _Stops = Field(
        default=None, description="The answer ends before the first of these that comes."
    )
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    seed: int | None = None
    where: list[Annotated[str, Field(max_length=1000)]] | None = Field(
        default=None,
        max_length=100,
        description="FIELD=VALUE: search only such passages; ours, not OpenAI's",
    )

    @property
    def new_tokens(self) -> int | None:
        """Return the bound on new tokens that the request asks for."""
        asked = self.max_completion_tokens
        return self.max_tokens if asked is None else asked

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the texts before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def tells_usage(self) -> bool:
        """Return whether a stream is to end with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def served_name(self, served: list[ServedModel]) -> ServedModel:
        """Return which of the server's models is asked.

        Raises:
            RequestError: it is none of them.
        """
        return served_name(self.model, served)

    def ignored(self) -> list[str]:
        """Return the names of what was sent and has no effect, in their order."""
        honoured = (*_BOUNDED, *(_TOOL_OPTIONS if _says(self.others.get("tools")) else ()))
        found = [name for name in self.others if name not in honoured]
        found += ignored_of_tools(self.others.get("tools"))
        if self.others.get("temperature") == 1:  # the API's default; what is done is 0
            found.append("temperature")
        if self.stream_options is not None:
            inner = [f"stream_options.{name}" for name in self.stream_options.others]
            found += inner if self.stream else ["stream_options"]
        found += [f"messages.{name}" for message in self.messages for name in message.ignored()]
        return list(dict.fromkeys(found))

    @property
    def needs_tools(self) -> bool:
        """Return whether a model that calls no tools can't answer it."""
        asks = self.others.get("tool_choice") not in (None, "none", "auto")
        return asks or _says(self.others.get("tools")) or any(m.is_of_tools for m in self.messages)

    def tool_choice(self) -> ToolChoice:
        """Return what a model that calls tools is asked of them.

        Raises:
            RequestError: a tool is none, or the choice can't be honoured.
        """
        return tool_choice(self.others)

    def turns(self, most_characters: int, choice: ToolChoice | None = None) -> list[Message]:
        """Return the conversation, ready to be answered; `choice` is there for a model that was
        trained to call tools.

        Raises:
            RequestError: it asks for what is not done here, its turns are not what can be answered,
                or they have more than `most_characters` together.
        """
        for name, bound in _BOUNDED.items():
            if choice is None or name not in _OF_TOOLS:
                _check_bounded(name, bound, self.others.get(name))
        if choice is None:
            turns = [message.turn(number) for number, message in enumerate(self.messages)]
        else:
            rows = [message.row(number) for number, message in enumerate(self.messages)]
            turns = turns_with_tools(rows, choice)
        _check_turns(turns, most_characters)
        return turns


def _check_bounded(name: str, bound: _Bounded, value: object) -> None:
    if value is None or _is_one_of(value, bound.values):
        return
    rest = f", or send {' or '.join(map(repr, bound.values))}" if bound.values else ""
    raise RequestError(
        f"{name} is {_shown(value)}, {bound.why}: leave {name} out{rest}",
        param=name,
        code="unsupported_value" if bound.values else "unsupported_parameter",
    )


def _is_one_of(value: object, values: Iterable[object]) -> bool:
    """Return whether a value is among others; True is no 1 here."""
    is_bool = isinstance(value, bool)
    return any(value == one and is_bool == isinstance(one, bool) for one in values)


def _says(value: object) -> bool:
    return value is not None and value not in ([], {})


def _shown(value: object) -> str:
    """Return a value for a message, soon, whatever its size."""
    if isinstance(value, (dict, list)):
        kind = "an object" if isinstance(value, dict) else "a list"
        named = value.get("type") if isinstance(value, dict) else None
        return f"{kind} of type {named[:_LONGEST_SHOWN]!r}" if isinstance(named, str) else kind
    return repr(value[:_LONGEST_SHOWN] if isinstance(value, str) else value)


def _check_turns(turns: list[Message], most_characters: int) -> None:
    late = [at for at, turn in enumerate(turns) if turn.role == "system" and at > 0]
    if late:
        raise RequestError(
            f"message {late[0]} is a system message; only the first message can be one",
            param="messages",
        )
    if turns[-1].role != "user" or not turns[-1].content.strip():
        raise RequestError(
            "the last message is not a user's message with text, so there is nothing to answer",
            param="messages",
        )
    characters = sum(len(turn.content) for turn in turns)
    if characters > most_characters:
        raise RequestError(
            f"the messages have {characters} characters; at most {most_characters} are read "
            "(requests.characters)",
            param="messages",
            code="context_length_exceeded",
        )
