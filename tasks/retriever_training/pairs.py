"""What the embedder learns from: a text that asks, and the passage that is to be found with it.

A question and a passage that holds its answer; or, where data have no questions, a sentence of a
document and the rest of its passage (the inverse cloze task, Lee et al. 2019, arXiv:1906.00300,
section 3, whose authors leave the sentence in one passage of ten)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.lexical.bm25 import LexicalIndex, lexical_tokens
from tasks.lexical.chunking import Border, Passage, find_words
from tasks.records.schema import Record
from tasks.records.text import hash_share, text_sha256

_SPANS_LEFT_IN = 0.1
_LEAST_SPAN_TERMS = 3  # a shorter sentence asks for nothing
_DEPTH = 20  # of BM25's ranks, besides those that are wanted


@dataclass(frozen=True)
class Pair:
    """A text that asks, and the passage that it is to find.

    `documents` hold what is asked, `passage` is of one of them; `group` is what a split keeps
    together, a record's or the document; `answer` is what the passage is
    asked for, in its own words, empty where nobody wrote it down.
    """

    id: str
    question: str
    passage: Passage
    documents: frozenset[str]
    group: str
    answer: str = ""
    is_feedback: bool = False

    def is_held_by(self, passage: Passage) -> bool:
        """Return whether a passage holds what is asked, so that it is no negative.

        It does where it is of a right document, reads as the right passage does, or has the answer.
        """
        if passage.document_id in self.documents or passage.shown == self.passage.shown:
            return True
        answer = _plain(self.answer)
        return bool(answer) and answer in _plain(passage.shown)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def question_pairs(records: Sequence[Record], passages: Sequence[Passage]) -> list[Pair]:
    """Return a pair for each record that names a document with passages, in their order.

    Of several passages of its documents the one is taken that has most of the answer's terms, then
    of the question's; of equal ones the first.
    """
    held = by_document(passages)
    found = []
    for record in records:
        named = [passage for name in record.documents for passage in held.get(name, ())]
        if named:
            found.append(
                Pair(
                    record.id,
                    record.question,
                    _best(named, record),
                    frozenset(record.documents),
                    record.group,
                    record.answer,
                    record.is_feedback,
                )
            )
    return found


def by_document(passages: Sequence[Passage]) -> Mapping[str, list[Passage]]:
    """Return passages by the ids of their documents."""
    found: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        found[passage.document_id].append(passage)
    return found


def _best(passages: Sequence[Passage], record: Record) -> Passage:
    if len(passages) == 1:
        return passages[0]
    answer, question = (set(lexical_tokens(text)) for text in (record.answer, record.question))

    def shared(passage: Passage) -> tuple[int, int]:
        terms = set(lexical_tokens(passage.shown))
        return len(terms & answer), len(terms & question)

    return max(passages, key=shared)


def span_pairs(passages: Sequence[Passage], seed: int) -> list[Pair]:
    """Return a pair for each document with a passage of two sentences or more, in their order.

    Passage and sentence are chosen by hash. Most sentences are taken out of their passage, so that
    more than shared words has to be learned.
    """
    pairs = []
    for document, held in by_document(passages).items():
        ordered = sorted(held, key=lambda one: text_sha256("passage", str(seed), one.id))
        pair = next((found for one in ordered if (found := _span_pair(document, one, seed))), None)
        if pair is not None:
            pairs.append(pair)
    return pairs


def _span_pair(document: str, passage: Passage, seed: int) -> Pair | None:
    sentences = [
        (begin, end)
        for begin, end in _sentences(passage.text)
        if len(lexical_tokens(passage.text[begin:end])) >= _LEAST_SPAN_TERMS
    ]
    if len(sentences) < 2:
        return None
    begin, end = min(
        sentences, key=lambda one: text_sha256("sentence", str(seed), passage.id, str(one[0]))
    )
    span, rest = passage.text[begin:end].strip(), passage
    if hash_share(passage.id, f"left-in-{seed}") >= _SPANS_LEFT_IN:
        rest = replace(passage, text=(passage.text[:begin] + passage.text[end:]).strip())
    return Pair(f"{passage.id} span", span, rest, frozenset({document}), document)


def _sentences(text: str) -> list[tuple[int, int]]:
    """Return where each sentence of a text begins and ends."""
    words = find_words(text)
    starts = [
        words.starts[at]
        for at in range(len(words))
        if at == 0 or words.borders[at] >= Border.SENTENCE
    ]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


@dataclass(frozen=True)
class Chosen:
    """The pairs that are learned, and those of other groups that say when to stop."""

    learned: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def choose_pairs(pairs: Sequence[Pair], *, most: int, share: float, seed: int) -> Chosen:
    """Return at most so many pairs to learn, reviewed feedback first, and others to stop by.

    Both are chosen by hash. The latter are at most this share of `most`, and of this share of the
    groups, at least one where there are two, of which no pair is learned.
    """
    named = sorted(
        {pair.group for pair in pairs}, key=lambda name: text_sha256("stop", str(seed), name)
    )
    held = set(named[: max(round(len(named) * share), 1)]) if len(named) > 1 else set()
    ordered = sorted(
        pairs, key=lambda pair: (not pair.is_feedback, text_sha256("pair", str(seed), pair.id))
    )
    return Chosen(
        tuple(pair for pair in ordered if pair.group not in held)[:most],
        tuple(pair for pair in ordered if pair.group in held)[: max(round(most * share), 1)],
    )


def hard_negatives(
    pairs: Sequence[Pair], passages: Sequence[Passage], lexical: LexicalIndex, count: int
) -> list[tuple[Passage, ...]]:
    """Return for each pair the passages that BM25 ranks best of those that are negatives.

    At most `count`: fewer where BM25 finds no more among its best ranks.
    """
    if not count or not pairs:
        return [() for _ in pairs]
    depth = count + _DEPTH
    places, scores = lexical.search([pair.question for pair in pairs], depth)
    found = []
    for pair, row, values in zip(pairs, places, scores, strict=True):
        ranked = (passages[at] for at in row[values > 0])
        found.append(tuple(one for one in ranked if not pair.is_held_by(one))[:count])
    return found
