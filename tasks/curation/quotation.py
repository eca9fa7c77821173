"""Which of many question-answer pairs a document holds: both texts, word for word.

Case, spacing and the punctuation around words are set aside, as they are for same questions.
"""

from collections.abc import Sequence

import numpy as np

from tasks.curation.questions import same_form
from tasks.curation.shingling import Hashes, shingle_hashes

# The first characters of a question, of which a document is asked for every one; the longer of the
# two that the question has. A question shorter than both is too common to be a quotation.
_ANCHORS = (16, 6)


class QuotationIndex:
    """Questions and answers in `same_form`, to be looked for in documents."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._anchors: dict[int, tuple[Hashes, list[int]]] = {}
        for place, width in enumerate(_ANCHORS):
            longer = _ANCHORS[place - 1] if place else None
            rows = [
                row
                for row, (question, _) in enumerate(pairs)
                if width <= len(question) and (longer is None or len(question) < longer)
            ]
            if rows:
                hashes, _ = shingle_hashes([pairs[row][0][:width] for row in rows], width)
                order = np.argsort(hashes, kind="stable")
                self._anchors[width] = hashes[order], [rows[item] for item in order]

    def find(self, text: str) -> list[int]:
        """The places of the pairs that a text holds, question and answer both."""
        form = same_form(text)
        found = []
        for width, (anchors, rows) in self._anchors.items():
            if len(form) < width:
                continue
            windows = np.unique(shingle_hashes([form], width)[0])
            hits = np.flatnonzero(np.isin(anchors, windows, assume_unique=False))
            found += [rows[hit] for hit in hits]
        return sorted(row for row in found if all(part in form for part in self._pairs[row]))
