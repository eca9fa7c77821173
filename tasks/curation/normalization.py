"""Records and documents in one Unicode form, without characters that nobody sees.

What is done to which character, and why:

- Letters and marks: composed (NFC), so that equal looks are equal bytes.
- Line ends (CR LF, CR, NEL, line and paragraph separators, form feed, vertical tab): a line feed.
- Control characters but tab and line feed, non-characters, byte-order marks, zero-width spaces,
  word joiners, soft hyphens, invisible operators, annotation marks: removed. They split a word in
  two for a tokenizer, hide text from a reader, and mean nothing here. A zero-width space stays
  between letters of scripts that are written without spaces and use it to part words (Thai, Lao,
  Khmer, Myanmar).
- Zero-width joiner and non-joiner: they carry meaning, and stay, beside a letter of a script that
  joins (Arabic, the Indic scripts, Mongolian ...); a joiner also stays between two pictographs of
  one emoji. Elsewhere they are removed.
- Bidirectional overrides, embeddings and isolates: removed, since they make a text read otherwise
  than it is stored (CVE-2021-42574, "Trojan Source"). Plain direction marks stay in a text that
  holds a letter written from right to left.
- Variation selectors: the first after a symbol or a Han or Mongolian letter stays; others, with
  which bytes can be smuggled, are removed. Tag characters stay in the flag of a region alone.
- Hangul fillers, which look like a space, become one; the two of conjoining jamo stay by jamo.

Text that spells a special token of a model, `<|im_end|>` for one, is text and stays as it is: the
renderer of prompts encodes it so that it can't end a turn.
"""

import unicodedata
from dataclasses import replace

import regex

from tasks.records.schema import Document, Message, Record

# Scripts in which a zero-width joiner or non-joiner changes what is read.
_JOINING = "".join(
    rf"\p{{Script={name}}}"
    for name in (
        "Arabic", "Syriac", "Nko", "Mandaic", "Mongolian", "Devanagari", "Bengali", "Gurmukhi",
        "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Khmer",
        "Myanmar", "Tibetan",
    )
)  # fmt: skip
_WORD_SPACED = r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
_PICTOGRAPH = r"\p{Extended_Pictographic}(?:\uFE0F|[\U0001F3FB-\U0001F3FF])?"

_LINE_ENDS = regex.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_FILLERS = regex.compile("[\u3164\uffa0]")
# What stays stands first: an alternative that matches there is put back as it is.
_HIDDEN = regex.compile(
    rf"(?P<stays>(?<=[{_JOINING}]\p{{M}}*)[\u200c\u200d\u034f\u180b-\u180d\u180e\u180f]"
    rf"|[\u200c\u200d](?=[{_JOINING}])"
    rf"|(?<={_PICTOGRAPH})\u200d(?={_PICTOGRAPH})"
    rf"|(?<=[{_WORD_SPACED}])\u200b(?=[{_WORD_SPACED}])"
    r"|(?<=[\p{So}\p{Sm}\p{Po}\p{Sk}0-9\p{Han}])[\uFE00-\uFE0F]"
    r"|(?<=\p{Han})[\U000E0100-\U000E01EF]"
    r"|(?<=\U0001F3F4)[\U000E0061-\U000E007A\U000E0030-\U000E0039]{3,6}\U000E007F"
    r"|[\u115f\u1160](?=[\u1100-\u11ff])|(?<=[\u1100-\u11ff])[\u115f\u1160])"
    r"|[[\p{Cc}--[\t\n]]"
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\uFE00-\uFE0F\ufeff\ufff0-\ufffb\U000E0000-\U000E0FFF"
    r"\p{Noncharacter_Code_Point}]",
    regex.VERSION1,
)
_DIRECTION_MARKS = "\u200e\u200f\u061c"
_RIGHT_TO_LEFT = regex.compile(r"[\p{Bidi_Class=R}\p{Bidi_Class=AL}]")


def normalized_text(text: str) -> str:
    """Return the text in NFC, without what is hidden in it; applying it again changes nothing."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    text = _FILLERS.sub(" ", _LINE_ENDS.sub("\n", text))
    previous = ""
    # What is removed can bring a letter and its mark together, or two halves of a pair.
    while text != previous:
        previous = text
        text = _without_hidden(unicodedata.normalize("NFC", text))
    return text


def normalized_record(record: Record) -> Record:
    """Return the record with its texts normalized; ids stay as they are."""
    messages = tuple(Message(item.role, normalized_text(item.content)) for item in record.messages)
    rejected = normalized_text(record.rejected)
    if (messages, rejected) == (record.messages, record.rejected):
        return record
    return replace(record, messages=messages, rejected=rejected)


def normalized_document(document: Document) -> Document:
    """Return the document with its title and text normalized; its id stays as it is."""
    title, text = normalized_text(document.title), normalized_text(document.text)
    return replace(document, title=title, text=text)


def _without_hidden(text: str) -> str:
    marks = _DIRECTION_MARKS if _RIGHT_TO_LEFT.search(text) else ""

    def kept(match: "regex.Match[str]") -> str:
        found: str = match.group()
        return found if match.group("stays") or found in marks else ""

    cleaned: str = _HIDDEN.sub(kept, text)
    return cleaned
