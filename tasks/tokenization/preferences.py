"""Preferences as token ids: after one prompt the answer of a record, and the one it rejects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import encode_answers
from tasks.records.schema import Record
from tasks.sequences.examples import Example
from tasks.stage.errors import DataError

_SHOWN = 3


@dataclass(frozen=True)
class EncodedPairs:
    """Examples by twos, the chosen before the rejected, and the records whose pair is too long."""

    examples: list[Example]
    too_long: list[str]


def encode_pairs(
    records: Sequence[Record],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> EncodedPairs:
    """Return the pairs of the records that reject an answer and have an example.

    Raises:
        DataError: the token ids of the two answers are equal.
    """
    by_id = {example.id: example for example in examples}
    paired = [record for record in records if record.rejected and record.id in by_id]
    answers = encode_answers(tokenizer, [record.rejected for record in paired])
    found = EncodedPairs([], [])
    equal = []
    for record, answer in zip(paired, answers, strict=True):
        chosen = by_id[record.id]
        ids = (*chosen.token_ids[: chosen.prompt_length], *answer)
        if ids == chosen.token_ids:
            equal.append(record.id)
        elif len(ids) > max_tokens:
            found.too_long.append(record.id)
        else:
            context = f"preference {record.id}"
            found.examples.extend(
                replace(
                    chosen, id=f"{record.id} {kind}", variant=kind, context=context, token_ids=own
                )
                for kind, own in (("chosen", chosen.token_ids), ("rejected", ids))
            )
    if equal:
        raise DataError(
            f"{len(equal)} of {len(paired)} preference pairs have two equal answers, "
            f"{', '.join(equal[:_SHOWN])} first; nothing can be learned from them",
            "mend or take out `rejected_answer` of these rows in the source",
        )
    return found


def check_pairs(learned: EncodedPairs, held_out: EncodedPairs) -> None:
    """Check that pairs can be learned and measured.

    Raises:
        DataError: the training or the validation split has none.
    """
    if not learned.examples or not held_out.examples:
        raise DataError(
            "tokenization.preferences is true, which needs at least one pair of train and one of "
            "validation. "
            f"{pairs_line({'train': count_pairs(learned), 'validation': count_pairs(held_out)})}",
            "take rows with `rejected_answer` in (docs/guides/training.md), or set "
            "tokenization.preferences: false and finetuning.preferences: null",
        )


def count_pairs(encoded: EncodedPairs) -> dict[str, int]:
    """Return how many pairs there are, and how many more are too long."""
    return {"pairs": len(encoded.examples) // 2, "too_long": len(encoded.too_long)}


def pairs_line(found: Mapping[str, Mapping[str, int]]) -> str:
    """Return it in a sentence, by split."""
    told = [f"{one['pairs']} of {split}, {one['too_long']} more too long"
            for split, one in found.items()]  # fmt: skip
    return f"Preference pairs: {'; '.join(told)}."
