"""Params of the evaluation stage."""

from typing import Literal, Self

from pydantic import Field

from tasks.scoring.abstentions import abstentions_for
from tasks.stage.errors import ConfigError
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, StageParams
from tasks.task_types.definition import TaskType
from tasks.task_types.tools import TOOLS

VariantName = Literal["trained", "zero_shot", "few_shot", "reasoning"]


class VariantParams(StageParams):
    """Prompts that the base may be asked with."""

    compared: list[VariantName] = Field(
        min_length=1, description="the base is asked with the best of them on validation records"
    )
    records: int = Field(ge=1, le=100_000, description="validation records of the comparison")
    demonstrations: int = Field(ge=1, le=32, description="training examples that few_shot shows")
    template: str = Field(description="path of reasoning's Jinja template")
    answer_after: str = Field(min_length=1, description="what reasoning's answer comes after")
    max_new_tokens: int = Field(ge=1, le=4096, description="of reasoning")
    seed: int = Field(ge=0, description="of the choice of demonstrations")


class EvaluationParams(StageParams):
    """`params/evaluation.yaml`."""

    records: int = Field(ge=1, le=100_000, description="records scored, chosen by hashed id")
    split: Literal["test", "validation"] = Field(description="whose records are asked")
    distractor_records: int = Field(ge=0, le=100_000, description="of these, in mode distractor")
    injection_records: int = Field(ge=0, le=100_000, description="of these, in mode injected")
    instruction_tokens: int = Field(ge=1, le=4096, description="new tokens of a plain instruction")
    all_modes: bool = Field(description="whether students and controls are all asked in every mode")
    variants: VariantParams
    salt: str = Field(description="salt of the hash that chooses records")
    primary_mode: Literal["closed_book", "retrieved", "oracle"]
    primary_metric: Literal["exact_match", "token_f1", "rouge_l", "chrf"]
    student_keeps: float = Field(
        gt=0, le=1, description="share of the adapter's score that the offered student keeps"
    )
    confidence: float = Field(
        gt=0.5, lt=1, description="of every interval; tests are at the level 1 - confidence"
    )
    power: float = Field(
        gt=0.5, lt=1, description="with which the smallest detectable difference would be found"
    )
    resamples: int = Field(ge=100, le=1_000_000, description="draws of an interval or a test")
    seed: int = Field(ge=0, description="of the draws")
    abstentions: list[str] = Field(
        min_length=1,
        description="an answer that begins with one of these abstains; the first is the reference "
        "where only abstaining is right",
    )
    abstentions_in: dict[str, list[str]] = Field(
        description="by language, those that go before `abstentions` for data in it"
    )

    def in_language(self, language: str) -> Self:
        """Return the params with the `abstentions` that answers in a language are known by."""
        found = abstentions_for(language, self.abstentions, self.abstentions_in)
        return self.model_copy(update={"abstentions": found})

    def of_task(self, task: TaskType) -> Self:
        """Return the params with a task's own metric, where it has one.

        Raises:
            ConfigError: params ask for what such answers have not.
        """
        if task.metric is None:
            return self
        if "reasoning" in self.variants.compared:
            raise ConfigError(
                f"evaluation.variants.compared names reasoning; task {task.name} asks for "
                f"{task.says} alone, and no step can stand before it",
                "`--set evaluation.variants.compared=[zero_shot]`",
            )
        if task == TOOLS and "few_shot" in self.variants.compared:
            raise ConfigError(
                "evaluation.variants.compared names few_shot; examples that call tools which a "
                "prompt does not offer would show what is wrong",
                "`--set evaluation.variants.compared=[zero_shot]`",
            )
        return self.model_copy(update={"primary_metric": task.metric})


class Params(StageParams):
    """The files that evaluation is given."""

    evaluation: EvaluationParams
    prompting: PromptingParams
    models: ModelsParams
    compute: ComputeParams
