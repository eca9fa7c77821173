"""Task classify: a text gets one label of a closed set."""

from collections.abc import Iterable, Sequence

from tasks.records.text import normalise
from tasks.stage.errors import DataError
from tasks.task_types.definition import TaskType

CLASSIFY = TaskType(
    name="classify",
    prompt="classify",
    says="a label",
    # A mean over records, so that comparisons are paired by record: macro F1 has no score a record.
    metric="accuracy",
    metrics=("accuracy", "macro_f1", "outside_labels", "ece", "broken_outputs", "cut_outputs"),
    shown=("accuracy", "macro_f1"),
    rules=frozenset({"inside_labels", "beats_linear"}),
    unasked={
        "groundedness": "a label claims nothing that passages could support",
        "abstention": "a model that says one of its labels does not abstain",
        "forgetting": "a classifier is asked for labels, and for no other text",
        "instructions": "a classifier is asked for labels, and for nothing else",
    },
)

# What evaluation calls its linear model of words, the baseline.
LINEAR = "linear"

_LEAST_LABELS = 2
# Labels that are no set come once each: free answers do.
_MOST_LABELS_A_ROW = 0.5
_NAMED, _SHOWN = 5, 60


def choose_labels(answers: Iterable[str], given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the closed set, in order: the labels of params, else the training split's answers.

    Raises:
        DataError: the set is no set of labels, or an answer of the training split is not in it.
    """
    rows = list(answers)
    used = dict.fromkeys(rows)
    labels = tuple(sorted(used if given is None else given))
    check_labels(labels)
    if len(used) < _LEAST_LABELS:
        raise DataError(
            f"the training split has one label ({_listed(list(used))}); expected at least "
            f"{_LEAST_LABELS}, or there is nothing to learn apart",
            "take in rows of the other labels",
        )
    if given is None and len(labels) > _MOST_LABELS_A_ROW * len(rows):
        raise DataError(
            f"{len(rows)} rows of the training split have {len(labels)} different answers, such as "
            f"{_listed(labels)}; expected a closed set of labels, each with several rows",
            "use `--set task.name=answer` for answers in words, or list the labels in "
            "task.classify.labels",
        )
    known = set(labels)
    strange = [answer for answer in used if answer not in known]
    if strange:
        raise DataError(
            f"{len(strange)} answers of the training split are no label of task.classify.labels: "
            f"{_listed(strange)}; a model would learn to say what it may not say",
            "add them to the labels, spelled alike, or mend the rows",
        )
    return labels


def check_labels(labels: Sequence[str]) -> None:
    """Check that labels are two or more, none empty, none like another but for case or spaces.

    Raises:
        DataError: they are not.
    """
    if any(not label.strip() for label in labels):
        raise DataError(
            "one of the labels is empty; expected a text, since a model can't say nothing",
            "name the label in the source, or leave such rows out",
        )
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(normalise(label), []).append(label)
    pairs = [names for names in alike.values() if len(names) > 1]
    if pairs:
        told = "; ".join(_listed(names) for names in pairs[:_NAMED])
        raise DataError(
            f"{sum(map(len, pairs))} labels differ from another in case, spaces or width alone: "
            f"{told}; expected one spelling each, or a right answer counts as wrong by its letters",
            "spell each label in one way in the source (columns in params/ingestion.yaml)",
        )
    if len(labels) < _LEAST_LABELS:
        raise DataError(
            f"there is {len(labels)} label ({_listed(labels)}); expected at least "
            f"{_LEAST_LABELS}, or there is nothing to tell apart",
            "take in rows of other labels, or list all labels in task.classify.labels",
        )


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label[:_SHOWN]) for label in labels[:_NAMED])
    return shown + (f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else "")
