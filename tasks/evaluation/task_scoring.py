"""How the answers of a task are scored: evaluation's row of each task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tasks.evaluation.aggregates import Abstains, AnswerMetrics, outcome_metrics, row_metrics
from tasks.evaluation.call_metrics import call_metrics
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.summary_metrics import summary_metrics
from tasks.evaluation.system_run import (
    ScoreAnswer,
    score_answer,
    score_call,
    score_label,
    score_summary_of,
    score_turn,
)
from tasks.records.predictions import LABEL_SCORE, SCORE_NAMES, Prediction, record_scores
from tasks.scoring.answer_scores import Metrics, abstains, null
from tasks.scoring.call_scores import call_scoring_sha256
from tasks.scoring.identity import scoring_sha256, turn_scoring_sha256
from tasks.scoring.label_scores import Calibration, Confusion, label_scoring_sha256
from tasks.scoring.summary_scores import summary_scoring_sha256
from tasks.task_types.answer import ANSWER
from tasks.task_types.chat import CHAT
from tasks.task_types.classify import CLASSIFY
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.table import TrainedTask
from tasks.task_types.tools import TOOLS

Rows = Sequence[Prediction]


@dataclass(frozen=True)
class TaskScoring:
    """How answers are scored, and what is told of those of one system in one mode.

    `metric` is what systems are compared by, `names` the scores of a row whose means are told,
    `means` what computes these, and `further` all else that is told. `sha256` is the scoring's
    identity. `abstains` is None where no answer can say that it does not know. `has_turns`: a
    record has a row a turn.
    """

    metric: str
    names: tuple[str, ...]
    score: ScoreAnswer
    means: Callable[[Rows], Mapping[str, float]]
    further: Callable[[Rows], Metrics]
    sha256: str
    abstains: Abstains | None
    has_turns: bool = False

    def summarise(self, rows: Rows) -> Metrics:
        """Return all that is told of rows."""
        return {**self.means(rows), **self.further(rows)}


def task_scoring(task: TrainedTask, params: EvaluationParams) -> TaskScoring:
    """Return how the answers of a task are scored."""
    return _ROWS[task.name](task, params)


def row_means(names: Sequence[str], rows: Rows) -> dict[str, float]:
    """Return the mean of each score over records."""
    scores = {name: record_scores(rows, name) for name in names}
    return {name: sum(found.values()) / len(found) for name, found in scores.items()}


def _answers(_: TrainedTask, params: EvaluationParams) -> TaskScoring:
    markers = tuple(params.abstentions)
    knows_not = partial(abstains, markers=markers)
    return TaskScoring(
        metric=params.primary_metric,
        names=SCORE_NAMES,
        score=partial(score_answer, markers=markers),
        means=_answer_means,
        further=partial(row_metrics, abstains=knows_not),
        sha256=scoring_sha256(params.abstentions),
        abstains=knows_not,
    )


def _answer_means(rows: Rows) -> dict[str, float]:
    found = AnswerMetrics.load()
    return found.compute([row.output for row in rows], [row.reference for row in rows])


def _labels(task: TrainedTask, _: EvaluationParams) -> TaskScoring:
    return TaskScoring(
        metric=LABEL_SCORE,
        names=(LABEL_SCORE,),
        score=score_label,
        means=partial(row_means, (LABEL_SCORE,)),
        further=partial(label_metrics, task.labels),
        sha256=label_scoring_sha256(),
        abstains=None,
    )


def _summaries(_: TrainedTask, __: EvaluationParams) -> TaskScoring:
    assert SUMMARIZE.metric is not None
    return TaskScoring(
        metric=SUMMARIZE.metric,
        names=_ROUGE,
        score=score_summary_of,
        means=partial(row_means, _ROUGE),
        further=summary_metrics,
        sha256=summary_scoring_sha256(),
        abstains=None,
    )


def _turns(_: TrainedTask, params: EvaluationParams) -> TaskScoring:
    markers = tuple(params.abstentions)
    knows_not = partial(abstains, markers=markers)
    assert CHAT.metric is not None
    return TaskScoring(
        metric=CHAT.metric,
        names=SCORE_NAMES,
        score=partial(score_turn, markers=markers),
        means=partial(row_means, SCORE_NAMES),
        further=partial(row_metrics, abstains=knows_not),
        sha256=turn_scoring_sha256(params.abstentions),
        abstains=knows_not,
        has_turns=True,
    )


def _calls(_: TrainedTask, __: EvaluationParams) -> TaskScoring:
    assert TOOLS.metric is not None
    return TaskScoring(
        metric=TOOLS.metric,
        names=(TOOLS.metric,),
        score=score_call,
        means=partial(row_means, (TOOLS.metric,)),
        further=call_metrics,
        sha256=call_scoring_sha256(),
        abstains=None,
    )


_ROUGE = ("rouge_1", "rouge_2", "rouge_l")
_ROWS = {
    ANSWER.name: _answers,
    CLASSIFY.name: _labels,
    SUMMARIZE.name: _summaries,
    CHAT.name: _turns,
    TOOLS.name: _calls,
}


def label_metrics(labels: Sequence[str], rows: Rows) -> Metrics:
    """Return what labels given to records say beside their accuracy.

    `outside_labels` is the share of answers that are none of the closed set; `ece` the expected
    calibration error, null where the model's answers were free.
    """
    confusion = confusion_of(labels, rows)
    found = calibration_of(rows)
    ece = {"ece": found.ece} if found else null("ece", "answers were free: no label has a share")
    return {
        "macro_f1": confusion.macro_f1(),
        "outside_labels": confusion.outside / len(rows),
        **ece,
        **outcome_metrics(rows),
    }


def confusion_of(labels: Sequence[str], rows: Rows) -> Confusion:
    """Return what was given for what."""
    return Confusion.of([row.output for row in rows], [row.reference for row in rows], labels)


def calibration_of(rows: Rows) -> Calibration | None:
    """Return the calibration of answers, None where not all of them have a probability."""
    probabilities = [row.probability for row in rows if row.probability is not None]
    if len(probabilities) < len(rows):
        return None
    return Calibration.of(probabilities, [row.score(LABEL_SCORE) for row in rows])
