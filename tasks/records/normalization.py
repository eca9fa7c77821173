"""Records and documents in one Unicode form."""

import unicodedata
from dataclasses import replace

from tasks.records.record import Document, Message, Record


def nfc(text: str) -> str:
    """The text in Unicode's composed form, so that equal looks are equal bytes."""
    return unicodedata.normalize("NFC", text)


def normalized_record(record: Record) -> Record:
    """The record with its messages in NFC; ids stay as they are."""
    messages = tuple(Message(item.role, nfc(item.content)) for item in record.messages)
    return replace(record, messages=messages)


def normalized_document(document: Document) -> Document:
    """The document with its title and text in NFC; its id stays as it is."""
    return replace(document, title=nfc(document.title), text=nfc(document.text))
