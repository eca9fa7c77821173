"""Passages: the pieces of documents that are searched and shown to a model."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.records.borders import Words, find_words
from tasks.records.files import read_rows, write_rows
from tasks.records.hashing import text_sha256
from tasks.records.record import Document
from tasks.stage.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document; its id is the document's id, `#` and its place from 0.

    Title, source and license are the document's, empty where it has none.
    """

    id: str
    document: str
    title: str
    text: str
    source: str = ""
    license: str = ""

    @property
    def shown(self) -> str:
        """The passage as a prompt shows it and an index reads it: the title leads, once."""
        if not self.title or self.text.startswith(self.title):
            return self.text
        return f"{self.title}: {self.text}" if self.text else self.title

    @property
    def sha256(self) -> str:
        """The hash of what is shown: equal content has an equal vector."""
        return text_sha256(self.shown)

    @property
    def is_first(self) -> bool:
        """Whether the document begins with this passage."""
        return self.id == f"{self.document}#0"

    def as_row(self) -> dict[str, Any]:
        """The passage as a JSON object, with its hash."""
        return asdict(self) | {"sha256": self.sha256}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Passage":
        """The passage that a JSON object written by `as_row` describes.

        Raises:
            DataError: its hash is not that of its content.
        """
        content = dict(row)
        digest, passage = content.pop("sha256", None), cls(**content)
        if digest != passage.sha256:
            raise DataError(
                f"passage {passage.id} has the hash {str(digest)[:12]} and its content "
                f"{passage.sha256[:12]}: it was changed after it was indexed, so its vector and "
                "its words are another text's",
                "run `nightloom run`, which indexes the documents again",
            )
        return passage


def cut_document(document: Document, *, words: int, overlap_words: int) -> list[Passage]:
    """The passages of a document, in order, each at most `words` long; no word is lost.

    A passage ends, between half and the whole of its length, where the text is best cut: before a
    heading, a paragraph, a list item, a sentence, a line, in this order. The next one begins up to
    `overlap_words` before that end, again where it is best. White space inside a passage stays as
    it was. A document with a title and no text is one passage; one with neither has none. Time and
    memory grow as the text does.

    Raises:
        ConfigError: the overlap leaves no step forward.
    """
    if overlap_words >= words:
        raise ConfigError(
            f"passage_overlap_words is {overlap_words} and passage_words is {words}; expected a "
            "smaller overlap, or the passages of a document never end",
            "lower prompting.passage_overlap_words",
        )
    found = find_words(document.text)
    texts = [
        document.text[found.starts[start] : found.ends[end - 1]]
        for start, end in cut_words(found, words, overlap_words)
    ]
    if not texts and document.title:
        texts = [""]
    return [
        Passage(
            f"{document.id}#{place}",
            document.id,
            document.title,
            text,
            document.source,
            document.license,
        )
        for place, text in enumerate(texts)
    ]


def cut_words(found: Words, most: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First word and end of each passage; no third is made where two can hold the rest."""
    borders, count, start = found.borders, len(found), 0
    while count - start > most:
        low = start + max(overlap + 1, (most + 1) // 2)
        if count - start <= 2 * most - overlap:
            low = max(low, count - most + overlap)
        window = borders[low : start + most + 1]
        end = low + window.rindex(max(window))
        yield start, end
        shared = borders[end - overlap : end]
        start = end - overlap + shared.index(max(shared)) if shared else end
    if count:
        yield start, count


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
    """The passages of a file that `write_passages` wrote, in its order.

    Raises:
        DataError: a passage is not what was written.
    """
    return [Passage.from_row(row) for row in read_rows(path)]


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """How many passages were written."""
    return write_rows(path, (passage.as_row() for passage in passages))


def passages_sha256(passages: Iterable[Passage]) -> str:
    """One hash over the ids and contents of passages, in their order."""
    return text_sha256(*(part for item in passages for part in (item.id, item.sha256)))
