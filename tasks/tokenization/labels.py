"""The closed set of labels of task classify: chosen, and held against what a tokenizer can say."""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import encode_answers
from tasks.records.schema import Record
from tasks.records.text import normalise
from tasks.stage.errors import ConfigError, DataError
from tasks.task_types.classify import CLASSIFY, choose_labels
from tasks.task_types.table import TrainedTask
from tasks.tokenization.params import TaskParams


def trained_task(params: TaskParams, train: Sequence[Record]) -> TrainedTask:
    """Return what models are trained for, with the labels that the training split gives.

    Raises:
        DataError: they are no set of labels.
    """
    if params.name != CLASSIFY.name:
        return TrainedTask(params.name)
    labels = choose_labels((record.answer for record in train), params.classify.labels)
    return TrainedTask(params.name, labels, params.classify.constrained)


def check_said(labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int) -> None:
    """Check that a model can say each label, whole and unlike the others, in `most` tokens.

    Raises:
        ConfigError: one is longer.
        DataError: the tokenizer makes another text of one, or the same tokens of two.
    """
    if not labels:
        return
    ids = encode_answers(tokenizer, labels)
    longest = max(range(len(labels)), key=lambda place: len(ids[place]))
    tokens = len(ids[longest]) - 1
    if tokens > most:
        raise ConfigError(
            f"the label {labels[longest]!r} takes {tokens} tokens; prompting.max_new_tokens lets a "
            f"model say {most}, so it could never be given",
            f"`--set prompting.max_new_tokens={tokens}`, or shorten the label in the source",
        )
    seen: dict[tuple[int, ...], str] = {}
    for label, own in zip(labels, ids, strict=True):
        said = str(tokenizer.decode(own, skip_special_tokens=True))
        other = seen.setdefault(tuple(own), label)
        if other != label or normalise(said) != normalise(label):
            found = f"the same as of {other!r}" if other != label else f"those of {said!r}"
            raise DataError(
                f"the base's tokenizer makes tokens of the label {label!r} that are {found}; a "
                "model could not give this label",
                "spell the label otherwise in the source, or take another base",
            )


def count_unlearned(
    labels: Sequence[str], splits: Mapping[str, Sequence[Record]]
) -> dict[str, int]:
    """Return how many labels there are, and by split the records whose answer is none of them.

    Such a record is asked and scored as wrong: nobody can know a label that was never learned.
    """
    known = {normalise(label) for label in labels}
    unlearned = {
        f"unlearned_{split}": sum(normalise(record.answer) not in known for record in records)
        for split, records in splits.items()
        if split != "train"
    }
    return {"count": len(labels)} | unlearned


def labels_line(found: Mapping[str, int]) -> str:
    """Return it in a sentence."""
    return (
        f"{found['count']} labels. Records whose label was not learned, and so counts as wrong: "
        f"{found['unlearned_validation']} of validation, {found['unlearned_test']} of test."
    )
