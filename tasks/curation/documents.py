"""The documents: normalised, masked, and of equal ones one."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from tasks.curation.normalization import normalized_document
from tasks.privacy.masking import masked, masking_kinds
from tasks.privacy.params import PersonalDataParams
from tasks.records.schema import Document, stream_documents, write_documents
from tasks.records.text import text_sha256


@dataclass(frozen=True)
class DocumentChanges:
    """The ids of all documents, in order; the duplicates by the id kept; what was masked, by id.

    `corrections` are documents made of feedback, which come on top.
    """

    ids: list[str] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    masks: dict[str, Counter[str]] = field(default_factory=dict)
    corrections: int = 0

    @property
    def kept(self) -> int:
        """Return how many documents stay."""
        return len(self.ids) - len(self.duplicates)


def curate_documents(
    source: Path,
    target: Path,
    needed: set[str],
    corrections: Collection[Document],
    params: PersonalDataParams,
) -> DocumentChanges:
    """Return what became of the documents of a file, those that stay written into another.

    Of equal texts one stays, and all that a record refers to: those are in `needed`. The
    `corrections`, masked already, are written behind them.
    """
    changes = DocumentChanges(corrections=len(corrections))
    firsts: dict[str, str] = {}
    for document in _prepared(source, params, changes):
        digest = text_sha256(document.title, document.text)
        changes.ids.append(document.id)
        first = firsts.setdefault(digest, document.id)
        if first not in needed and document.id in needed:
            changes.duplicates[first] = firsts[digest] = document.id
        elif first != document.id and document.id not in needed:
            changes.duplicates[document.id] = first
    # An unneeded first can be named by others before a needed one takes its place.
    for identifier, kept in changes.duplicates.items():
        changes.duplicates[identifier] = changes.duplicates.get(kept, kept)
    changes.masks.clear()
    chosen = (
        document
        for document in _prepared(source, params, changes)
        if document.id not in changes.duplicates
    )
    write_documents(target, chain(chosen, corrections))
    return changes


def _prepared(
    source: Path, params: PersonalDataParams, changes: DocumentChanges
) -> Iterator[Document]:
    kinds = masking_kinds(params.model_dump())
    for raw in stream_documents(source):
        document = normalized_document(raw)
        title, in_title = masked(document.title, kinds, params.phone_regions)
        text, in_text = masked(document.text, kinds, params.phone_regions)
        found = in_title + in_text
        if found:
            changes.masks[document.id] = found
        yield replace(document, title=title, text=text) if found else document
