"""Reference answers, closed book: as examples, and how likely a model finds them."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tasks.lm.chats import encode_answers
from tasks.lm.examples import Example
from tasks.lm.likelihood import log_likelihoods
from tasks.lm.models import LanguageModel
from tasks.lm.prompts import Prompt, PromptTemplate
from tasks.records.likelihoods import Likelihood
from tasks.records.record import Record


def reference_likelihoods(
    system: str,
    model: LanguageModel,
    template: PromptTemplate,
    records: Sequence[Record],
    *,
    max_tokens: int,
) -> list[Likelihood]:
    """How likely a model, known as `system`, finds each record's answer after its question alone.

    Raises:
        DataError: one of them is not finite.
    """
    examples = closed_book_examples(template, model.tokenizer, records)
    found = log_likelihoods(model.model, examples, max_tokens=max_tokens)
    return [
        Likelihood(system, example.id, example.slice, value, example.supervised)
        for example, value in zip(examples, found, strict=True)
    ]


def closed_book_examples(
    template: PromptTemplate, tokenizer: PreTrainedTokenizerBase, records: Sequence[Record]
) -> list[Example]:
    """Each record's answer after its question without passages.

    Their prompts share a beginning, which packs hold once.
    """
    prompts = template.token_ids(tokenizer, [Prompt(item.messages[:-1], ()) for item in records])
    answers = encode_answers(tokenizer, [record.answer for record in records])
    return [
        Example(
            record.id,
            record.slice,
            record.intake,
            "closed_book",
            record.id,
            tuple(prompt + answer),
            len(prompt),
        )
        for record, prompt, answer in zip(records, prompts, answers, strict=True)
    ]
