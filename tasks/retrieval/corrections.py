"""Corrections answer questions about their own subject alone, however alike two questions read."""

from collections import Counter
from collections.abc import Sequence

from tasks.lexical.bm25 import lexical_tokens
from tasks.lexical.chunking import Passage


class Corrections:
    """The passages of an index that are corrections, and the subjects that documents are titled by.

    "What can I use json.dumps for?" has nearly all words of a corrected "What can I use json.dump
    for?". So search finds the correction, and the model repeats it. But a document's title tells
    what the question is about.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._places: dict[str, set[int]] = {}
        corrections = {at: item for at, item in enumerate(passages) if item.is_correction}
        for place, passage in corrections.items():
            for term in lexical_tokens(passage.shown):
                self._places.setdefault(term, set()).add(place)
        self._all = frozenset(corrections)
        titles = {item.document: item.title for item in passages if not item.is_correction}
        self._titled = Counter(
            term for title in titles.values() for term in set(lexical_tokens(title))
        )

    def __len__(self) -> int:
        return len(self._all)

    def of_other_subjects(self, question: str) -> frozenset[int]:
        """Return the places of the corrections that a question is not about.

        Of the question's terms that documents have in their titles, the rarest says what it is
        about; a correction without it is about something else. Where terms are equally rare, one of
        them is enough, and where no title has a term, no correction is left out.
        """
        asked = [term for term in lexical_tokens(question) if term in self._titled]
        if not asked:
            return frozenset()
        fewest = min(self._titled[term] for term in asked)
        subject = [term for term in asked if self._titled[term] == fewest]
        return self._all.difference(*(self._places.get(term, ()) for term in subject))
