"""Params of promotion: what is decided on, and a block a rule."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tasks.stage.params import StageParams
from tasks.task_types.definition import TaskType

Severity = Literal["refuse", "warn"]


class RuleParams(StageParams):
    """A rule: whether it is asked, and what becomes of a candidate that breaks it."""

    enabled: bool
    severity: Severity


class QuarantineParams(RuleParams):
    """Rows that validation refused."""

    max_quarantine_share: float = Field(ge=0, le=1)


class LeakParams(RuleParams):
    """Leaks of the test split that curation found."""

    max_leaks: int = Field(ge=0)


class CompletenessParams(RuleParams):
    """Metrics that are there and finite."""

    may_be_null: list[str] = Field(description="metrics that may be null, given a reason")


class PowerParams(RuleParams):
    """What so many records can show."""

    max_detectable: float = Field(
        gt=0, le=1, description="the smallest difference that the records can show is at most this"
    )


class CutParams(RuleParams):
    """Answers that met their bound before they ended."""

    max_cut: float = Field(ge=0, le=1)


class BrokenParams(RuleParams):
    """Answers that hold bytes which are no character."""

    max_broken: float = Field(ge=0, le=1)


class GainParams(RuleParams):
    """A gain whose whole interval lies above a bound."""

    min_gain: float = Field(ge=-1, le=1)


class MarginParams(RuleParams):
    """The loss against the champion, or the anchor, that has to be ruled out."""

    margin: float = Field(gt=0, lt=1, description="over all records")
    slice_margin: float = Field(gt=0, lt=1, description="in each slice")


class OutsideParams(RuleParams):
    """Answers of task classify that are no label."""

    max_outside: float = Field(ge=0, le=1, description="share of the answers")


class FaithfulParams(RuleParams):
    """Numbers and names in summaries that their texts lack."""

    max_unsupported: float = Field(ge=0, le=1, description="share of the numbers and names")


class ValidCallsParams(RuleParams):
    """Calls of task tools that nobody can carry out."""

    max_invalid: float = Field(ge=0, le=1, description="share of the calls")


class WearParams(RuleParams):
    """How often test records have been decided on."""

    max_decisions: int = Field(ge=1, description="that a test record may have taken part in before")


class RecallParams(RuleParams):
    """How often retrieval finds a document that holds the answer."""

    depth: Literal[1, 5, 10]
    min_recall: float = Field(ge=0, le=1)
    max_gone: float = Field(
        ge=0, le=1, description="share of records whose documents are all gone from the index"
    )


class GroundednessParams(RuleParams):
    """How much of what is answered stands in the passages."""

    min_groundedness: float = Field(ge=0, le=1)


class AbstentionParams(RuleParams):
    """Saying that one does not know: where it is right, and where it is not."""

    min_unanswerable: float = Field(ge=0, le=1, description="of questions that have no answer")
    min_distractor: float = Field(ge=0, le=1, description="of those with wrong passages alone")
    max_answerable: float = Field(ge=0, le=1, description="of those that have an answer")


class ForgettingParams(RuleParams):
    """What general text became harder to predict by."""

    max_perplexity_ratio: float = Field(ge=1)


class InstructionsParams(RuleParams):
    """Plain instructions that the base follows."""

    min_kept: float = Field(ge=0, le=1)


class ScoreRetentionParams(RuleParams):
    """The share of the adapter's score that a student keeps."""

    min_retention: float = Field(ge=0, le=2)


class ShadowRuleParams(RuleParams):
    """What may change in the answers to served questions."""

    max_differing: float = Field(ge=0, le=1, description="share answered otherwise")
    max_more_abstaining: float = Field(ge=0, le=1, description="share of the questions")
    max_groundedness_loss: float = Field(ge=0, le=1)


class LatencyParams(RuleParams):
    """How long a model takes for the same work as its base, measured in turns with it."""

    max_over_base: float = Field(gt=0, description="the ratio to the base's time")

    @model_validator(mode="before")
    @classmethod
    def _knows_no_milliseconds(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "max_p95_ms" in given:
            raise ValueError(
                "max_p95_ms is gone: it read times taken inside batches, on a machine that may be "
                "busy; expected max_over_base alone, the ratio to the base's time in turns with it"
            )
        return given


class SizeParams(RuleParams):
    """What weights take in memory."""

    max_over_base: float = Field(gt=0, description="megabytes over the base's")
    max_student_over_adapter: float = Field(gt=0, description="a student's over the adapter's")


class ParityParams(RuleParams):
    """What is served beside what was scored."""

    min_agreeing: float = Field(ge=0, le=1, description="share of answers that are the same")
    max_score_difference: float = Field(
        ge=0, le=1, description="of the mean scores, over the answers that were asked"
    )


class RulesParams(StageParams):
    """Every rule, in the order in which the verdict tells them."""

    data_accepted: QuarantineParams
    no_leak: LeakParams
    evidence: CompletenessParams
    same_records: RuleParams
    power: PowerParams
    worn_records: WearParams
    stops: CutParams
    readable: BrokenParams
    inside_labels: OutsideParams
    faithful: FaithfulParams
    valid_calls: ValidCallsParams
    beats_base: GainParams
    beats_linear: GainParams
    not_worse: MarginParams
    not_less_likely: MarginParams
    not_worse_than_best: MarginParams
    not_less_likely_than_best: MarginParams
    retrieval_recall: RecallParams
    groundedness: GroundednessParams
    abstention: AbstentionParams
    shadow: ShadowRuleParams
    forgetting: ForgettingParams
    instructions: InstructionsParams
    retention: ScoreRetentionParams
    student_keeps: RuleParams
    gain_over_control: GainParams
    latency: LatencyParams
    size: SizeParams
    parity: ParityParams


class TaskMargins(StageParams):
    """The losses that have to be ruled out of a task's own metric, in place of the rules' margins.

    The first two are against the champion, the others against the anchor.
    """

    margin: float = Field(gt=0, lt=1)
    slice_margin: float = Field(gt=0, lt=1)
    best_margin: float = Field(gt=0, lt=1)
    best_slice_margin: float = Field(gt=0, lt=1)


class TasksParams(StageParams):
    """What other tasks than answer have in place of what stands elsewhere in the file."""

    classify: TaskMargins
    summarize: TaskMargins
    chat: TaskMargins
    tools: TaskMargins


class PromotionParams(StageParams):
    """`params/promotion.yaml`."""

    primary_mode: Literal["closed_book", "retrieved", "oracle"]
    primary_metric: Literal["exact_match", "token_f1", "rouge_l", "chrf"] = Field(
        description="of task answer; the others have their own"
    )
    confidence: float = Field(gt=0.5, lt=1, description="of intervals; tests are at 1 - confidence")
    power: float = Field(gt=0.5, lt=1, description="with which what is asked for would be found")
    resamples: int = Field(ge=100, le=1_000_000)
    seed: int = Field(ge=0)
    anchor_nights: int = Field(
        ge=1, description="the last nights with a verdict, whose best champion is the anchor"
    )
    anchor_versions: int = Field(
        ge=1, description="earlier champions at most that a night scores again to choose it"
    )
    tasks: TasksParams
    rules: RulesParams

    def of_task(self, task: TaskType) -> Self:
        """Return what is decided on for a task: its own metric and margins, where it has any."""
        if task.metric is None:
            return self
        own: TaskMargins = getattr(self.tasks, task.name)
        rules = self.rules
        changed = {
            "not_worse": (rules.not_worse, own.margin, own.slice_margin),
            "not_worse_than_best": (
                rules.not_worse_than_best,
                own.best_margin,
                own.best_slice_margin,
            ),
        }
        margins = {
            name: block.model_copy(update={"margin": whole, "slice_margin": part})
            for name, (block, whole, part) in changed.items()
        }
        return self.model_copy(
            update={"primary_metric": task.metric, "rules": rules.model_copy(update=margins)}
        )


class Params(StageParams):
    """The file that a release is given."""

    promotion: PromotionParams
