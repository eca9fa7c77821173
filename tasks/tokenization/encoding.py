"""Records as examples: prompts with their contexts, answers to learn, and what cannot be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tasks.lm.chats import encode_answers
from tasks.lm.examples import Example
from tasks.lm.prompts import Prompt, PromptTemplate
from tasks.records.record import Record
from tasks.stage.errors import DataError
from tasks.tokenization.contexts import Context
from tasks.tokenization.params import TokenizationParams


@dataclass(frozen=True)
class Encoded:
    """A split's examples, the ids of the records left out of it by reason, and how many tokens each
    record takes, by id."""

    examples: list[Example]
    left_out: dict[str, list[str]]
    lengths: dict[str, int]


def make_prompts(records: Sequence[Record], contexts: Mapping[str, Context]) -> list[Prompt]:
    """What is asked for each record."""
    return [Prompt(item.messages[:-1], contexts[item.id].passages) for item in records]


def encode_records(
    records: Sequence[Record],
    contexts: Mapping[str, Context],
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    params: TokenizationParams,
) -> Encoded:
    """The examples of records, in their order; only the answer and its end of turn are learned.

    An example is left out where it is longer than `max_tokens` or its answer has no token.

    Raises:
        DataError: one would be left out and params say `stop`.
    """
    prompts = template.token_ids(tokenizer, make_prompts(records, contexts))
    answers = encode_answers(tokenizer, [record.answer for record in records])
    found = Encoded([], {"too_long": [], "empty_answer": []}, {})
    for record, prompt, answer in zip(records, prompts, answers, strict=True):
        context = contexts[record.id]
        found.lengths[record.id] = len(prompt) + len(answer)
        if len(prompt) + len(answer) > params.max_tokens:
            found.left_out["too_long"].append(record.id)
        elif len(answer) == 1:
            found.left_out["empty_answer"].append(record.id)
        else:
            variant = "passages" if context.passages else "closed_book"
            example = Example(
                record.id,
                record.slice,
                record.intake,
                variant,
                context.name,
                tuple(prompt + answer),
                len(prompt),
            )
            found.examples.append(example)
    _check(found, params)
    return found


def _check(found: Encoded, params: TokenizationParams) -> None:
    names = [f"{name} ({reason})" for reason, names in found.left_out.items() for name in names]
    if names and params.unusable == "stop":
        raise DataError(
            f"{len(names)} of {len(names) + len(found.examples)} examples cannot be learned from: "
            f"{', '.join(names[:3])}; tokenization.unusable says stop (too long is above "
            f"{params.max_tokens} tokens)",
            "raise tokenization.max_tokens, mend the records, or say unusable: drop",
        )
