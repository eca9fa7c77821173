"""Records and documents as every stage after validation knows them."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; the role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One example: a conversation whose last turn is the assistant's answer.

    `documents` are the ids of the documents that hold the answer, empty where none does;
    `slice` is a label to report by; `group` is what a split keeps together.
    """

    id: str
    messages: tuple[Message, ...]
    documents: tuple[str, ...]
    slice: str
    group: str
    source: str
    license: str
    intake: str

    @property
    def question(self) -> str:
        """The user's last turn."""
        return self.messages[-2].content

    @property
    def answer(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content

    def as_row(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Record":
        """The record that a JSON object written by `as_row` describes."""
        messages = tuple(Message(**message) for message in row["messages"])
        return cls(**row | {"messages": messages, "documents": tuple(row["documents"])})


@dataclass(frozen=True, slots=True)
class Document:
    """One text that answers may be drawn from."""

    id: str
    text: str
    title: str
    source: str
    license: str

    def as_row(self) -> dict[str, Any]:
        """The document as a JSON object."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Document":
        """The document that a JSON object written by `as_row` describes."""
        return cls(**{item.name: row[item.name] for item in fields(cls)})
