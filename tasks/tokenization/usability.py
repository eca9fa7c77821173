"""How much of the data can be learned from and said, and the bounds that stop the night."""

import math
from collections.abc import Iterable, Mapping, Sequence

from tasks.records.schema import Record
from tasks.stage.errors import DataError, GateError, share_error, shown_text
from tasks.tokenization.params import Params
from tasks.tokenization.training_examples import EncodedSplit

_EXAMPLES = 3
# What raising `max_tokens` or `max_new_tokens` is to keep, and the most that these can be.
KEPT_SHARE = 0.99
MOST_TOKENS, MOST_NEW_TOKENS = 32768, 4096
_Splits = Mapping[str, Sequence[Record]]
_Encoded = Mapping[str, EncodedSplit]


def told(name: str, encoded: EncodedSplit) -> str:
    """Return a split's records in and examples left, in a line."""
    reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in encoded.left_out.items())
    return f"{name}: {len(encoded.lengths)} rows in, {reasons}, {len(encoded.examples)} left"


def usability_error(
    splits: _Splits, encoded: _Encoded, params: Params
) -> DataError | GateError | None:
    """Return why the night stops: too little can be learned from or said. None where it goes on."""
    train = encoded["train"]
    if not train.examples:
        return DataError(
            f"none of {len(splits['train'])} training examples can be used: "
            f"{len(train.left_out['too_long'])} are longer than max_tokens "
            f"({params.tokenization.max_tokens}), the others have an empty answer",
            _mending(encoded, params),
        )
    return _unusable_error(splits, encoded, params) or _long_answers_error(splits, encoded, params)


def _unusable_error(splits: _Splits, encoded: _Encoded, params: Params) -> GateError | None:
    every = sum(len(found.lengths) for found in encoded.values())
    reasons = _reasons(encoded)
    share, most = sum(reasons.values()) / max(every, 1), params.tokenization.max_unusable_share
    if share <= most:
        return None
    examples = [
        _shown(record, reason, split, found.lengths[record.id])
        for split, found in encoded.items()
        for reason in reasons
        for record in _first(splits[split], found.left_out[reason])
    ]
    return share_error(
        f"{sum(reasons.values())} of {every} examples cannot be learned from ({share:.1%}): "
        f"{reasons['too_long']} are longer than tokenization.max_tokens "
        f"({params.tokenization.max_tokens}), {reasons['empty_answer']} have an empty answer",
        share=share,
        most=most,
        setting="tokenization.max_unusable_share",
        why="a model that learned from the few that are left, the shortest, knows nothing of the "
        "others",
        by_cause="By split: " + "; ".join(told(*item) for item in encoded.items()),
        examples=examples[:_EXAMPLES],
        mending=_mending(encoded, params),
    )


def _long_answers_error(splits: _Splits, encoded: _Encoded, params: Params) -> GateError | None:
    most_tokens, most = params.prompting.max_new_tokens, params.tokenization.max_long_answer_share
    long = {split: found.long_answers(most_tokens) for split, found in encoded.items()}
    every = sum(len(found.answers) for found in encoded.values())
    count = sum(map(len, long.values()))
    by_split = "; ".join(f"{split}: {len(names)}" for split, names in long.items())
    if count <= most * every:
        return None
    examples = [
        _shown(record, "long answer", split, encoded[split].answers[record.id])
        for split, names in long.items()
        for record in _first(splits[split], names)
    ]
    return share_error(
        f"{count} of {every} answers ({count / every:.1%}) are longer than "
        f"prompting.max_new_tokens ({most_tokens})",
        share=count / every,
        most=most,
        setting="tokenization.max_long_answer_share",
        why="a model that learned them is cut in the middle of each, in evaluation and in serving",
        by_cause=f"By split: {by_split}",
        examples=examples[:_EXAMPLES],
        mending=_longer_answers(encoded),
    )


def _reasons(encoded: _Encoded) -> dict[str, int]:
    return {reason: sum(len(found.left_out[reason]) for found in encoded.values())
            for reason in ("too_long", "empty_answer")}  # fmt: skip


def _mending(encoded: _Encoded, params: Params) -> str:
    """Return what makes the examples fit, or where their answers went."""
    reasons = _reasons(encoded)
    if reasons["empty_answer"] > reasons["too_long"]:
        return (
            "look for the rows without an answer in the source (columns in params/ingestion.yaml)"
        )
    needed = enough(length for found in encoded.values() for length in found.lengths.values())
    prompts = params.prompting
    less = (
        f"show less: lower prompting.passage_tokens ({prompts.passage_tokens}) or "
        f"prompting.passages ({prompts.passages})"
    )
    if needed > MOST_TOKENS:
        return f"{less}, or cut the records"
    return f"`--set tokenization.max_tokens={needed}` keeps {KEPT_SHARE:.0%} of them; or {less}"


def _longer_answers(encoded: _Encoded) -> str:
    needed = enough(length for found in encoded.values() for length in found.answers.values())
    if needed > MOST_NEW_TOKENS:
        return "shorten the answers in the source"
    return (
        f"`--set prompting.max_new_tokens={needed}` lets {KEPT_SHARE:.0%} of them be said whole; "
        "or shorten the answers in the source"
    )


def enough(lengths: Iterable[int]) -> int:
    """Return the length that nearly all have at most."""
    ordered = sorted(lengths)
    return ordered[math.ceil(KEPT_SHARE * len(ordered)) - 1]


def _first(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """Return the first of the named records."""
    chosen = set(names[:_EXAMPLES])
    return [record for record in records if record.id in chosen]


def _shown(record: Record, reason: str, split: str, tokens: int) -> str:
    texts = " -> ".join(shown_text(text) for text in (record.question, record.answer))
    return f"{record.id} ({split}, {reason}, {tokens} tokens) {texts}"
