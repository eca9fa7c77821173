"""What the report of task classify has of its own: labels one by one, confusions, calibration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.evaluation.grids import NOTHING, Grid, number
from tasks.evaluation.task_scoring import calibration_of, confusion_of
from tasks.records.predictions import Prediction
from tasks.scoring.label_scores import Calibration, Confusion
from tasks.task_types.classify import LINEAR

LABELS_FILE = "labels.json"
# Whose labels are told one by one; the others' are in the file.
_TOLD = ("adapter", LINEAR)
_CONFUSED = 12


@dataclass(frozen=True)
class LabelReport:
    """What each system gave for each label in the primary mode, and its calibration."""

    confusions: Mapping[str, Confusion]
    calibrations: Mapping[str, Calibration]

    @classmethod
    def of(
        cls,
        labels: Sequence[str],
        grouped: Mapping[str, Mapping[str, Sequence[Prediction]]],
        mode: str,
    ) -> "LabelReport":
        """Return the report of predictions by system and mode."""
        rows = {system: modes[mode] for system, modes in grouped.items() if mode in modes}
        found = {system: calibration_of(own) for system, own in rows.items()}
        return cls(
            {system: confusion_of(labels, own) for system, own in rows.items()},
            {system: one for system, one in found.items() if one is not None},
        )

    def write(self, folder: Path) -> None:
        """Write all of it as `labels.json`."""
        content = {
            system: {
                "labels": {name: asdict(one) for name, one in confusion.by_label().items()},
                "confusion": {"order": confusion.labels, "counts": confusion.counts},
                "calibration": asdict(self.calibrations[system])
                if system in self.calibrations
                else None,
            }
            for system, confusion in self.confusions.items()
        }
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
        (folder / LABELS_FILE).write_text(text + "\n", encoding="utf-8")

    def grids(self) -> list[Grid]:
        """Return the labels of the adapter beside those of the linear model, and what was taken
        for what most often.
        """
        told = {name: self.confusions[name] for name in _TOLD if name in self.confusions}
        scores = {name: one.by_label() for name, one in told.items()}
        parts = ("precision", "recall", "f1")
        columns = [f"{name}, {part}" for name in told for part in parts]
        own = scores["adapter"]
        rows = [
            (
                label,
                str(own[label].support),
                *(number(getattr(scores[name][label], part)) for name in told for part in parts),
            )
            for label in own
        ]
        grid = Grid("By label", ("label", "records", *columns), tuple(rows))
        return [grid, self._confused(told["adapter"])]

    def _confused(self, found: Confusion) -> Grid:
        given = (*found.labels, "(no label)")
        pairs = [
            (count, found.labels[right], given[place])
            for right, row in enumerate(found.counts)
            for place, count in enumerate(row)
            if count and place != right
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
        rows = tuple((right, said, str(count)) for count, right, said in pairs[:_CONFUSED])
        return Grid(
            "What the adapter takes for what most often",
            ("right label", "given", "records"),
            rows or ((NOTHING, NOTHING, "0"),),
        )


def labels_in_words(metrics: Mapping[str, Any]) -> str:
    """Return what labels the systems gave, and how well they know how sure they are."""
    mode = metrics["primary"]["mode"]
    rows = {system: modes[mode] for system, modes in metrics["systems"].items() if mode in modes}
    told = [
        f"the {system} {row['outside_labels']:.1%} of its answers are none of them, macro F1 "
        f"{row['macro_f1']:.3f}"
        + ("" if row["ece"] is None else f", calibration error {row['ece']:.3f}")
        for system, row in rows.items()
    ]
    asked = "only they could be said" if metrics["task"]["constrained"] else "answers were free"
    return (
        f"There are {metrics['task']['labels']} labels, and {asked}. Of {'; of '.join(told)}. "
        "Macro F1 is the mean over the labels that records have, each counting the same. A "
        "calibration error of 0 says that of the labels given with a probability of 80%, say, "
        "80% are right."
    )


def linear_in_words(metrics: Mapping[str, Any]) -> str:
    """Return plainly which is better, the adapter or a linear model of words."""
    found = metrics["comparisons"][f"adapter-{LINEAR}"]
    mode = metrics["primary"]["mode"]
    ours, theirs = (metrics["intervals"][name][mode] for name in ("adapter", LINEAR))
    if found["low"] > 0:
        said = "The adapter is better than the linear model"
    elif found["high"] < 0:
        said = "The linear model is better than the adapter"
    else:
        said = "Neither can be told to be better"
    scores = " and ".join(
        f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}] of the {name}"
        for name, one in (("adapter", ours), ("linear model", theirs))
    )
    return (
        f"{said}: accuracy {scores}, a difference of {found['difference']:+.3f} "
        f"({found['confidence']:.0%} interval {found['low']:+.3f} to {found['high']:+.3f}, paired "
        f"by record). The linear model is logistic regression over TF-IDF of words and pairs of "
        "words, trained on the same training split."
    )
