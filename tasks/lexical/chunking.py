"""Documents cut into passages, the pieces that are searched and shown to a model.

A text is cut at the border between words that ranks best: by structure first, then sentences."""

import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from itertools import accumulate
from pathlib import Path
from typing import Any

import regex

from tasks.records.schema import Document, read_rows, without_false, write_rows
from tasks.records.text import UNSPACED, id_form, text_sha256
from tasks.stage.errors import ConfigError, DataError

# What counts as a word where a passage's length is measured: a run without spaces, at most 40
# characters of it; one character of Han, kana or Thai; up to four of Hangul, an average word.
# Combining marks stay with the character that they follow.
_WORDS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\u30fc]\p{M}*"
    r"|\p{Hangul}{1,4}\p{M}*"
    rf"|[^\s{UNSPACED}]{{1,40}}\p{{M}}*"
)

_LINES = regex.compile(r"\S[^\n]*+")

_HASH_HEADING = regex.compile(r"#{1,6}\s+\S")

_UNDERLINE = regex.compile(r"""([=\-~^"'#*+])\1{2,}+\s*+$""")

_ITEM = regex.compile(
    r"(?:[-*+\u2022\u2023\u25e6\u00b7]|>>>|\(?(?:\d{1,3}|[A-Za-z가-하])[.)])\s+\S"
    r"|(?:\d{1,3}|[一二三四五六七八九十]{1,3})、|[\u2460-\u2473]"
)

_FENCE = regex.compile(r"```")

# A full stop ends a sentence where no small letter follows, unless it belongs to one letter
# ("e.g.", initials) or to the number of a list item. Those of Chinese and Japanese need no space.
_SENTENCE_ENDS = regex.compile(
    r"(?<!(?:^|\n)[ \t]*\d{1,3})(?<!\b\p{L})"
    r"[.!?\u2026]++[\"'\u201d\u2019)\]}»`]*+\s++(?=[^\p{Ll}\s])"
    r"|[\u3002\uff01\uff1f\uff61\uff0e]++[\"'\u201d\u2019)\]}»」』》】）]*+\s*+"
)

_CLAUSE_ENDS = "\uff0c\u3001\uff1b\uff1a"


class Border(IntEnum):
    """How well a text is cut before a word, worst first."""

    GLUED = 0  # before closing punctuation, after a heading or the opening of a code block
    CHARACTER = 1  # inside a run without spaces
    SPACE = 2  # between words, or after a comma of Chinese or Japanese
    LINE = 3
    SENTENCE = 4  # also between the paragraphs of a code block
    ITEM = 5  # before a list item or a prompt of an interactive session
    PARAGRAPH = 6  # also before and after a code block
    HEADING = 7


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text: where each starts and ends, and the border before it."""

    starts: "array[int]"
    ends: "array[int]"
    borders: bytearray

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank: its first letter's place, what it is, and what lies before it."""

    start: int
    kind: str
    after_blank: bool


def find_words(text: str) -> Words:
    """Return the words of a text with their borders, in one pass and in 17 bytes a word."""
    words = Words(array("q"), array("q"), bytearray())
    lines, sentences = _line_borders(text), _sentence_starts(text)
    line_start, line_border = next(lines, (len(text), Border.LINE))
    sentence_start = next(sentences, len(text))
    end = 0
    for match in _WORDS.finditer(text):
        start = match.start()
        border = _joint(text, start) if start == end else Border.SPACE
        if line_start == start:
            border = line_border
            line_start, line_border = next(lines, (len(text), Border.LINE))
        if sentence_start <= start:
            if sentence_start == start and border != Border.GLUED:
                border = max(border, Border.SENTENCE)
            sentence_start = next(sentences, len(text))
        end = match.end()
        words.starts.append(start)
        words.ends.append(end)
        words.borders.append(border)
    return words


def _joint(text: str, start: int) -> Border:
    """Return the border inside a run without spaces."""
    if text[start - 1 : start] in _CLAUSE_ENDS:
        return Border.SPACE
    closes = unicodedata.category(text[start]) in {"Pe", "Pf", "Po"}
    opened = start > 0 and unicodedata.category(text[start - 1]) in {"Ps", "Pi"}
    return Border.GLUED if closes or opened else Border.CHARACTER


def _sentence_starts(text: str) -> Iterator[int]:
    return (match.end() for match in _SENTENCE_ENDS.finditer(text))


def _line_borders(text: str) -> Iterator[tuple[int, Border]]:
    """Yield where each line that is not blank begins, and the border before it."""
    fenced, before = False, ""
    for line in _classified(text):
        if before in {"heading", "open"}:
            border = Border.GLUED
        elif fenced:
            border = Border.SENTENCE if line.after_blank else Border.LINE
        elif line.kind == "heading":
            border = Border.HEADING
        elif line.after_blank or line.kind == "fence" or before == "close":
            border = Border.PARAGRAPH
        else:
            border = Border.ITEM if line.kind == "item" else Border.LINE
        if line.kind == "fence":
            border = Border.GLUED if fenced else border
            fenced, before = not fenced, "close" if fenced else "open"
        else:
            # A heading's underline belongs to it; a comment in a code block is no heading.
            ends_heading = line.kind == "heading" or (line.kind == "rule" and before == "heading")
            before = "heading" if ends_heading and not fenced else line.kind
        yield line.start, border


def _classified(text: str) -> Iterator[_Line]:
    """Yield the lines that are not blank; a line alone above an underline is a heading."""
    end = 0
    lines = _LINES.finditer(text)
    match = next(lines, None)
    while match is not None:
        following = next(lines, None)
        after_blank = text.count("\n", end, match.start()) > 1 or end == 0
        kind = _kind(match.group())
        if (
            kind == "text"
            and after_blank
            and following is not None
            and text.count("\n", match.end(), following.start()) == 1
            and _UNDERLINE.match(following.group())
        ):
            kind = "heading"
        yield _Line(match.start(), kind, after_blank)
        end = match.end()
        match = following


def _kind(line: str) -> str:
    if _FENCE.match(line):
        return "fence"
    if _HASH_HEADING.match(line):
        return "heading"
    if _ITEM.match(line):
        return "item"
    return "rule" if _UNDERLINE.match(line) else "text"


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document; its id is the document's id, `#` and its place from 0.

    Title, source, license and whether it is a correction are the document's, empty where it has
    none.
    """

    id: str
    document: str
    title: str
    text: str
    source: str = ""
    license: str = ""
    is_correction: bool = False

    @property
    def document_id(self) -> str:
        """Return the document's id in NFC, as records name it; old indexes hold other forms."""
        return id_form(self.document)

    @property
    def shown(self) -> str:
        """Return the passage as a prompt shows it and an index reads it: the title leads, once."""
        if not self.title or self.text.startswith(self.title):
            return self.text
        return f"{self.title}: {self.text}" if self.text else self.title

    @property
    def sha256(self) -> str:
        """Return the hash of what is shown: equal content has an equal vector."""
        return text_sha256(self.shown)

    @property
    def is_first(self) -> bool:
        """Return whether the document begins with this passage."""
        return self.id == f"{self.document}#0"

    def as_row(self) -> dict[str, Any]:
        """Return the passage as a JSON object, with its hash."""
        return without_false(asdict(self), "is_correction") | {"sha256": self.sha256}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Passage":
        """Return the passage that a JSON object written by `as_row` describes.

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


@dataclass(frozen=True, slots=True)
class TokenBound:
    """The most tokens of a model that a passage may take, and how many each of some texts takes."""

    most: int
    count: Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a passage may be: in words, and in the tokens of each model.

    `tokens` are, for each model, the most and how many tokens stand before each word of the text.
    """

    words: int
    tokens: Sequence[tuple[int, Sequence[int]]] = ()

    def end(self, start: int, count: int) -> int:
        """Return where the longest passage from a word on ends: after that word at the least."""
        end = min(start + self.words, count)
        for most, before in self.tokens:
            end = min(end, bisect_right(before, before[start] + most) - 1)
        return max(end, start + 1)

    def start(self, end: int) -> int:
        """Return where the longest passage up to an end starts."""
        start = max(end - self.words, 0)
        for most, before in self.tokens:
            start = max(start, bisect_left(before, before[end] - most))
        return min(start, end - 1)


def cut_document(
    document: Document, *, words: int, overlap_words: int, bounds: Sequence[TokenBound] = ()
) -> list[Passage]:
    """Return the passages of a document, in order; no word is lost.

    Each is at most `words` long and takes at most so many tokens as each of `bounds` allows, its
    title included: what a title takes above half of a bound comes on top, and a single word that is
    above it stands alone. A passage ends, between half and the whole of its length, where the text
    is best cut: before a heading, a paragraph, a list item, a sentence, a line, in this order. The
    next one begins up to `overlap_words` before that end (fewer where tokens bound the passage),
    again where it is best. White space inside a passage stays as it was. A document with a title
    and no text is one passage; one with neither has none. Time and memory grow as the text does.

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
    limits = Limits(words, [_tokens(document, found, bound) for bound in bounds])
    texts = [
        document.text[found.starts[start] : found.ends[end - 1]]
        for start, end in cut_words(found, limits, overlap_words)
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
            document.is_correction,
        )
        for place, text in enumerate(texts)
    ]


def _tokens(document: Document, found: Words, bound: TokenBound) -> tuple[int, Sequence[int]]:
    """Return the most tokens of a passage's text, and how many stand before each word.

    A word is counted by itself, with the space before it; so it takes no fewer than in its place.
    """
    begins = (found.starts[0], *found.ends[:-1]) if found else ()
    words = [document.text[start:end] for start, end in zip(begins, found.ends, strict=True)]
    title, *tokens = bound.count([f"{document.title}: " if document.title else "", *words])
    return max(bound.most - title, bound.most // 2), [0, *accumulate(tokens)]


def cut_words(found: Words, limits: Limits, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield first word and end of each passage; no third is made where two can hold the rest."""
    borders, count, start, covered = found.borders, len(found), 0, 0
    last = limits.start(count)
    while (reach := limits.end(start, count)) < count:
        length = reach - start
        shared = overlap * length // limits.words
        low = max(start + max(shared + 1, (length + 1) // 2), covered + 1)
        if last + shared <= reach:
            low = max(low, last + shared)
        window = borders[low : reach + 1]
        covered = low + window.rindex(max(window))
        yield start, covered
        common = borders[covered - shared : covered]
        start = covered - shared + common.index(max(common)) if common else covered
        # What is shared must leave room for a word that is new.
        while start < covered and limits.end(start, count) <= covered:
            start += 1
    if count:
        yield start, count


def cut_documents(
    documents: Iterable[Document],
    *,
    words: int,
    overlap_words: int,
    bounds: Sequence[TokenBound] = (),
) -> list[Passage]:
    """Return the passages of many documents, in the documents' order."""
    return [
        passage
        for document in documents
        for passage in cut_document(
            document, words=words, overlap_words=overlap_words, bounds=bounds
        )
    ]


def read_passages(path: Path) -> list[Passage]:
    """Return the passages of a file that `write_passages` wrote, in its order.

    Raises:
        DataError: a passage is not what was written.
    """
    return [Passage.from_row(row) for row in read_rows(path)]


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Return how many passages were written."""
    return write_rows(path, (passage.as_row() for passage in passages))


def passages_sha256(passages: Iterable[Passage]) -> str:
    """Return one hash over the ids and contents of passages, in their order."""
    return text_sha256(*(part for item in passages for part in (item.id, item.sha256)))
