"""Records as training examples: what each prompt shows, its token ids, and what is learned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage
from tasks.prompting.chat_encoding import encode_answers
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import Record
from tasks.records.text import hash_share, text_sha256
from tasks.sequences.examples import Example
from tasks.stage.errors import DataError
from tasks.task_types.table import Query
from tasks.tokenization.params import TokenizationParams

_NEAR = 4  # how many of the best matches may trade places


@dataclass(frozen=True)
class Context:
    """What a prompt shows above its question, by the name under which examples share it."""

    name: str
    passages: tuple[str, ...]

    def without(self, place: int) -> "Context":
        """Return the context with one passage less, under a name of its own."""
        fewer = self.passages[:place] + self.passages[place + 1 :]
        return Context(f"{self.name} without {place + 1}", fewer)


class _Waiting:
    """The records that have no context yet, by the document whose first passage serves them."""

    def __init__(
        self, records: Sequence[Record], served_by: Callable[[Record], str | None]
    ) -> None:
        self._document = {record.id: served_by(record) for record in records}
        self._records: dict[str | None, list[Record]] = {}
        for record in records:
            self._records.setdefault(self._document[record.id], []).append(record)

    def __contains__(self, record: Record) -> bool:
        return record.id in self._document

    def remove(self, record: Record) -> None:
        """Let a record wait no longer."""
        self._records[self._document.pop(record.id)].remove(record)

    def served(self, passages: Sequence[Passage]) -> list[Record]:
        """Return the waiting records that these passages serve, in the order they came."""
        return [
            record
            for passage in passages
            if passage.is_first
            for record in self._records.get(passage.document, [])
        ]


def choose_contexts(
    records: Sequence[Record],
    passages: Sequence[Passage],
    *,
    query: Query,
    count: int,
    params: TokenizationParams,
) -> dict[str, Context]:
    """Return a context for each record, by the record's id; `query` says what it is searched by.

    A share of the records, decided by hashed id, sees no passages. Of the others one comes first by
    hash and decides: the best lexical matches of its question, best first, with the gold document's
    first passage brought in where the search missed it. Where another document is next best, the
    few best trade places so that one comes which serves waiting records. These then share the
    passages: records whose gold passage is shown, and records without one whose best match is. So
    a question that has an answer and one that has none are asked of the same passages.
    """
    chosen = {record.id: Context(record.id, ()) for record in records}
    open_book = [
        record
        for record in sorted(records, key=lambda item: text_sha256(str(params.seed), item.id))
        if passages and hash_share(record.id, f"passages-{params.seed}") < params.passages_share
    ]
    if not open_book:
        return chosen
    first = {passage.document: passage for passage in passages if passage.is_first}
    questions = [query(record.messages[:-1]) for record in open_book]
    matches = best_matches([record.id for record in open_book], questions, passages, count)

    def served_by(record: Record) -> str | None:
        gold = [name for name in record.documents[:1] if name in first]
        return next(iter(gold or [match.document for match in matches[record.id]]), None)

    waiting = _Waiting(open_book, served_by)
    for record in sorted(open_book, key=lambda item: bool(item.documents)):
        if record not in waiting:
            continue
        waiting.remove(record)
        gold = next((first[name] for name in record.documents if name in first), None)
        shown = choose_passages(matches[record.id], gold, count, waiting)
        context = Context(record.id, tuple(passage.shown for passage in shown))
        chosen[record.id] = context
        for other in waiting.served(shown)[: params.context_examples - 1]:
            chosen[other.id] = context
            waiting.remove(other)
    return chosen


def best_matches(
    ids: Sequence[str], questions: Sequence[str], passages: Sequence[Passage], count: int
) -> dict[str, list[Passage]]:
    """Return for each id the best lexical matches of its question, best first."""
    if not ids:
        return {}
    index = LexicalIndex.build([passage.shown for passage in passages])
    depth = min(_NEAR + count, len(passages))
    found, _ = index.search(questions, depth)
    return {name: [passages[place] for place in row] for name, row in zip(ids, found, strict=True)}


def choose_passages(
    matches: Sequence[Passage], gold: Passage | None, count: int, waiting: _Waiting | None = None
) -> list[Passage]:
    """Return the `count` passages to show, as the matches rank them; a gold one they lack comes
    last.

    Where another document is next best, those come first that serve records that are `waiting`.
    """
    others = [match for match in matches if match != gold]
    is_free = gold is None or (others[:1] and others[0].document != gold.document)
    if waiting is not None and is_free:
        others[:_NEAR] = sorted(others[:_NEAR], key=lambda match: not waiting.served([match]))
    chosen = others[:count] if gold is None else [*others[: count - 1], gold]
    return sorted(chosen, key=lambda item: matches.index(item) if item in matches else len(matches))


@dataclass(frozen=True)
class EncodedSplit:
    """A split's examples, and what became of its records, by their ids.

    `left_out` are those without an example, by reason; `shortened` those whose prompt shows fewer
    passages than others do. `lengths` and `answers` are the tokens of each record's prompt with its
    answer, and of its answer alone.
    """

    examples: list[Example]
    left_out: dict[str, list[str]]
    shortened: list[str]
    lengths: dict[str, int]
    answers: dict[str, int]

    def long_answers(self, most: int) -> list[str]:
        """Return the records whose answer has more tokens than a model may say."""
        return [name for name, tokens in self.answers.items() if tokens > most]


def make_prompts(records: Sequence[Record], contexts: Mapping[str, Context]) -> list[Prompt]:
    """Return what is asked for each record."""
    return [Prompt(item.messages[:-1], contexts[item.id].passages) for item in records]


def gold_passages(
    records: Sequence[Record], passages: Sequence[Passage]
) -> dict[str, frozenset[str]]:
    """Return the passages that hold each record's answer, as a prompt shows them, by its id."""
    first = {passage.document: passage.shown for passage in passages if passage.is_first}
    return {
        record.id: frozenset(first[name] for name in record.documents if name in first)
        for record in records
    }


def encode_records(
    records: Sequence[Record],
    contexts: Mapping[str, Context],
    gold: Mapping[str, frozenset[str]],
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    params: TokenizationParams,
) -> EncodedSplit:
    """Return the examples of records, in their order; only the answer and its end of turn are
    learned.

    An example longer than `max_tokens` shows fewer passages, down to one. It is left out where that
    is still too long, or where its answer has no token.

    Raises:
        DataError: one would be left out and params say `stop`.
    """
    prompts = template.token_ids(tokenizer, make_prompts(records, contexts))
    answers = encode_answers(tokenizer, [record.answer for record in records])
    rooms = {
        record.id: params.max_tokens - len(answer)
        for record, answer in zip(records, answers, strict=True)
    }
    too_long = [record for record, prompt in zip(records, prompts, strict=True)
                if len(prompt) > rooms[record.id]]  # fmt: skip

    def encode(waiting: Sequence[Record], fewer: Mapping[str, Context]) -> list[list[int]]:
        return template.token_ids(tokenizer, make_prompts(waiting, fewer))

    shorter = _shorten(too_long, contexts, gold, rooms, encode)
    found = EncodedSplit([], {"too_long": [], "empty_answer": []}, list(shorter), {}, {})
    for record, whole, answer in zip(records, prompts, answers, strict=True):
        context, prompt = shorter.get(record.id, (contexts[record.id], whole))
        found.lengths[record.id] = len(prompt) + len(answer)
        found.answers[record.id] = len(answer) - 1
        if len(prompt) > rooms[record.id]:
            found.left_out["too_long"].append(record.id)
        elif not record.answer.strip():
            found.left_out["empty_answer"].append(record.id)
        else:
            found.examples.append(_example(record, context, prompt, answer))
    _check_unusable(found, params)
    return found


def _shorten(
    records: Sequence[Record],
    contexts: Mapping[str, Context],
    gold: Mapping[str, frozenset[str]],
    rooms: Mapping[str, int],
    encode: Callable[[Sequence[Record], Mapping[str, Context]], list[list[int]]],
) -> dict[str, tuple[Context, list[int]]]:
    """Return, by id, context and prompt of the records that fit once they show fewer passages.

    `rooms` are the tokens that each prompt may have. The gold passage goes last, of the others the
    worst match goes first.
    """
    found: dict[str, tuple[Context, list[int]]] = {}
    fewer = dict(contexts)
    while records := [item for item in records if len(fewer[item.id].passages) > 1]:
        for record in records:
            shown = fewer[record.id].passages
            others = [at for at, text in enumerate(shown) if text not in gold[record.id]]
            fewer[record.id] = fewer[record.id].without((others or range(len(shown)))[-1])
        for record, prompt in zip(records, encode(records, fewer), strict=True):
            if len(prompt) <= rooms[record.id]:
                found[record.id] = fewer[record.id], prompt
        records = [record for record in records if record.id not in found]
    return found


def _example(record: Record, context: Context, prompt: list[int], answer: list[int]) -> Example:
    return Example(
        record.id,
        record.slice,
        record.intake,
        "passages" if context.passages else "closed_book",
        context.name,
        tuple(prompt + answer),
        len(prompt),
        record.is_feedback,
    )


def _check_unusable(found: EncodedSplit, params: TokenizationParams) -> None:
    names = [f"{name} ({reason})" for reason, names in found.left_out.items() for name in names]
    if names and params.unusable == "stop":
        raise DataError(
            f"{len(names)} of {len(names) + len(found.examples)} examples cannot be learned from: "
            f"{', '.join(names[:3])}; tokenization.unusable says stop (too long is above "
            f"{params.max_tokens} tokens)",
            "raise tokenization.max_tokens, mend the records, or say unusable: drop",
        )
