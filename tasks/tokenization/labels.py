"""The closed set of labels of task classify: chosen, and held against what a tokenizer can say."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import encode_answers
from tasks.records.schema import Record
from tasks.records.text import normalise
from tasks.stage.errors import ConfigError, DataError
from tasks.task_types.classify import CLASSIFY, choose_labels
from tasks.task_types.params import TaskParams
from tasks.task_types.table import TrainedTask

_NAMED, _SHOWN = 5, 60


def trained_task(params: TaskParams, train: Sequence[Record]) -> TrainedTask:
    """Return what models are trained for, with the labels that the training split gives.

    Raises:
        DataError: they are no set of labels.
    """
    if params.name != CLASSIFY.name:
        return TrainedTask(params.name, chat=params.chat_settings)
    # A correction that people typed makes no label: a slip of theirs would become one.
    rows = [record for record in train if not record.is_feedback] or train
    labels = choose_labels((record.answer for record in rows), params.classify.labels)
    return TrainedTask(params.name, labels, params.classify.constrained)


def corrections_outside(task: TrainedTask, train: Sequence[Record]) -> dict[str, str]:
    """Return the corrections that are no label, by the ids of their rows: none can be learned."""
    if not task.labels:
        return {}
    known = set(task.labels)
    return {
        record.id: record.answer
        for record in train
        if record.is_feedback and record.answer not in known
    }


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


def count_labels(
    labels: Sequence[str],
    learned: Sequence[Record],
    splits: Mapping[str, Sequence[Record]],
    outside: Mapping[str, str],
) -> dict[str, Any]:
    """Return how many labels there are, which have no row, and what is asked of such, by split.

    `learned` is the training split. A record of a label without a row is asked and scored as wrong:
    nobody can know a label that was never learned. `outside` are the corrections that are no label.
    """
    known = {normalise(record.answer) for record in learned}
    unseen = [label for label in labels if normalise(label) not in known]
    unlearned = {
        f"unlearned_{split}": sum(normalise(record.answer) not in known for record in records)
        for split, records in splits.items()
        if split != "train"
    }
    found = {"count": len(labels), "without_rows": unseen, "outside": dict(outside)}
    return found | unlearned


def labels_line(found: Mapping[str, Any]) -> str:
    """Return it in sentences."""
    text = (
        f"{found['count']} labels. Records whose label was not learned, and so counts as wrong: "
        f"{found['unlearned_validation']} of validation, {found['unlearned_test']} of test."
    )
    if found["without_rows"]:
        text += f" No training row has {_listed(found['without_rows'])}."
    if found["outside"]:
        told = _listed([f"{text} ({name})" for name, text in found["outside"].items()])
        text += (
            f" {len(found['outside'])} corrections are no label and were left out: {told}. Spell "
            "them as a label, or add the label to task.classify.labels."
        )
    return text


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return ", ".join(repr(text[:_SHOWN]) for text in texts[:_NAMED]) + more
