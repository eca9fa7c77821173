"""Parity: what the served models answered, beside what they answered in evaluation."""

from typing import Annotated, ClassVar

from pydantic import Field

from tasks.records.predictions import Prediction
from tasks.records.schema import ServedModel
from tasks.scoring.answer_scores import rouge_l, token_f1
from tasks.scoring.call_scores import turn_score
from tasks.scoring.label_scores import label_match
from tasks.scoring.release_evidence import ReleaseEvidence, Strict

PARITY_FILE = "parity.json"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class ModelParity(Strict):
    """One model: how many test records it was asked, and how many answers were evaluation's own.

    `mean_score_difference` is the mean score of the served answers (token F1, of labels accuracy,
    of summaries ROUGE-L, of calls the turn's score) minus that of evaluation's.
    """

    asked: int = Field(ge=0)
    agreeing: int = Field(ge=0)
    share: float = Field(ge=0, le=1, allow_inf_nan=False)
    mean_score_difference: _Finite


class Parity(ReleaseEvidence):
    """`parity.json`: by model, the version that was served and the bundle it was made from."""

    holds: ClassVar[str] = "what the served models answered: only what was scored is promoted"
    task: ClassVar[str] = "verify"

    models: dict[ServedModel, ModelParity]
    versions: dict[ServedModel, int]
    bundle_sha256: str


def parity_score(known: Prediction, answer: str) -> float:
    """Return the score of another answer to what evaluation asked: token F1, of a label whether it
    is right, of a summary ROUGE-L, of a turn that may call tools that of its calls or words.
    """
    if known.accuracy is not None:
        return label_match(answer, known.reference)
    if known.turn_score is not None:
        return turn_score(answer, known.reference)
    score = token_f1 if known.rouge_1 is None else rouge_l
    return score(answer, known.reference)
