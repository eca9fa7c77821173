"""Reference answers as examples, closed book: what their likelihood is taken of."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from tasks.lm.chats import encode_answers
from tasks.lm.examples import Example
from tasks.lm.prompts import Prompt, PromptTemplate
from tasks.records.record import Record


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
