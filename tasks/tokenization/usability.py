"""How much of the data can be learned from, and the bound below which the night stops."""

import math
from collections.abc import Mapping, Sequence

from tasks.records.schema import Record
from tasks.stage.errors import GateError, share_error, shown_text
from tasks.tokenization.params import Params
from tasks.tokenization.training_examples import EncodedSplit

_EXAMPLES = 3
# What raising `max_tokens` is to keep of the examples, and the most that it can be.
_KEPT_SHARE = 0.99
_MOST_TOKENS = 32768


def told(name: str, encoded: EncodedSplit) -> str:
    """Return a split's records in and examples left, in a line."""
    reasons = ", ".join(f"{len(ids)} {reason}" for reason, ids in encoded.left_out.items())
    return f"{name}: {len(encoded.lengths)} rows in, {reasons}, {len(encoded.examples)} left"


def unusable_error(
    splits: Mapping[str, Sequence[Record]], encoded: Mapping[str, EncodedSplit], params: Params
) -> GateError | None:
    """Return why the share of examples that cannot be learned from stops the night, or None."""
    every = sum(len(found.lengths) for found in encoded.values())
    reasons = {reason: sum(len(found.left_out[reason]) for found in encoded.values())
               for reason in ("too_long", "empty_answer")}  # fmt: skip
    share, most = sum(reasons.values()) / max(every, 1), params.tokenization.max_unusable_share
    if share <= most:
        return None
    examples = [
        _shown(record, reason, split, found)
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
        mending=_mending(encoded, reasons, params),
    )


def _mending(
    encoded: Mapping[str, EncodedSplit], reasons: Mapping[str, int], params: Params
) -> str:
    """Return what makes the examples fit, or where their answers went."""
    if reasons["empty_answer"] > reasons["too_long"]:
        return (
            "look for the rows without an answer in the source (columns in params/ingestion.yaml)"
        )
    lengths = sorted(length for found in encoded.values() for length in found.lengths.values())
    enough = lengths[math.ceil(_KEPT_SHARE * len(lengths)) - 1]
    prompts = params.prompting
    less = (
        f"show less: lower prompting.passage_words ({prompts.passage_words}) or prompting.passages "
        f"({prompts.passages}), since this base spends more tokens on a word of these texts than "
        "the defaults think"
    )
    if enough > _MOST_TOKENS:
        return f"{less}, or cut the records"
    return f"`--set tokenization.max_tokens={enough}` keeps {_KEPT_SHARE:.0%} of them; or {less}"


def _first(records: Sequence[Record], names: Sequence[str]) -> list[Record]:
    """Return the first of the named records."""
    chosen = set(names[:_EXAMPLES])
    return [record for record in records if record.id in chosen]


def _shown(record: Record, reason: str, split: str, encoded: EncodedSplit) -> str:
    tokens = encoded.lengths[record.id]
    texts = " -> ".join(shown_text(text) for text in (record.question, record.answer))
    return f"{record.id} ({split}, {reason}, {tokens} tokens) {texts}"
