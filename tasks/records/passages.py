"""Passages: the pieces of documents that are searched and shown to a model."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import regex

from tasks.records.files import read_rows, write_rows
from tasks.records.record import Document
from tasks.records.text import UNSPACED
from tasks.stage.errors import ConfigError

# What counts as a word where a passage's length is measured: a run without spaces, at most 40
# characters of it; one character of Han, kana or Thai; up to four of Hangul, an average word.
# Combining marks stay with the character that they follow.
_WORDS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\u30fc]\p{M}*"
    r"|\p{Hangul}{1,4}\p{M}*"
    rf"|[^\s{UNSPACED}]{{1,40}}\p{{M}}*"
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document; its id is the document's id, `#` and its place from 0."""

    id: str
    document: str
    title: str
    text: str

    @property
    def shown(self) -> str:
        """The passage as a prompt shows it and an index reads it: the title leads, once."""
        if not self.title or self.text.startswith(self.title):
            return self.text
        return f"{self.title}: {self.text}" if self.text else self.title

    @property
    def is_first(self) -> bool:
        """Whether the document begins with this passage."""
        return self.id == f"{self.document}#0"

    def as_row(self) -> dict[str, Any]:
        """The passage as a JSON object."""
        return asdict(self)


def cut_document(document: Document, *, words: int, overlap_words: int) -> list[Passage]:
    """The passages of a document, in order, each at most `words` long.

    Neighbours share `overlap_words`. White space inside a passage stays as it was. A document with
    a title and no text is one passage; one with neither has none.

    Raises:
        ConfigError: the overlap leaves no step forward.
    """
    if overlap_words >= words:
        raise ConfigError(
            f"passage_overlap_words is {overlap_words} and passage_words is {words}; expected a "
            "smaller overlap, or the passages of a document never end",
            "lower prompting.passage_overlap_words",
        )
    spans = [match.span() for match in _WORDS.finditer(document.text)]
    if not spans:
        texts = [""] if document.title else []
    else:
        last_start = max(len(spans) - overlap_words, 1)
        starts = range(0, last_start, words - overlap_words)
        ends = [min(start + words, len(spans)) for start in starts]
        texts = [
            document.text[spans[start][0] : spans[end - 1][1]]
            for start, end in zip(starts, ends, strict=True)
        ]
    return [
        Passage(f"{document.id}#{place}", document.id, document.title, text)
        for place, text in enumerate(texts)
    ]


def cut_documents(
    documents: Iterable[Document], *, words: int, overlap_words: int
) -> list[Passage]:
    """The passages of many documents, in the documents' order."""
    return [
        passage
        for document in documents
        for passage in cut_document(document, words=words, overlap_words=overlap_words)
    ]


def read_passages(path: Path) -> list[Passage]:
    """The passages of a file that `write_passages` wrote, in its order."""
    return [Passage(**row) for row in read_rows(path)]


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """How many passages were written."""
    return write_rows(path, (passage.as_row() for passage in passages))
