"""The params of the curation stage."""

import regex
from pydantic import Field, field_validator

from tasks.privacy.params import PersonalDataParams
from tasks.stage.params import StageParams


class LengthRule(StageParams):
    """A bound on the length of questions and answers, in characters."""

    enabled: bool
    question_characters: int = Field(ge=0)
    answer_characters: int = Field(ge=0)


class RepetitiveRule(StageParams):
    """A text of at least `words` words whose runs of three words are too seldom new."""

    enabled: bool
    words: int = Field(ge=4)
    distinct_share: float = Field(gt=0, le=1)


class BoilerplateRule(StageParams):
    """Phrases that no answer may hold, whatever their case."""

    enabled: bool
    phrases: list[str]


class LanguageRule(StageParams):
    """The Unicode scripts of which at least `share` of a row's letters must be."""

    enabled: bool
    scripts: list[str] = Field(min_length=1)
    share: float = Field(gt=0, le=1)

    @field_validator("scripts")
    @classmethod
    def _are_scripts(cls, scripts: list[str]) -> list[str]:
        for name in scripts:
            try:
                regex.compile(rf"\p{{Script={name}}}")
            except regex.error:
                raise ValueError(
                    f"{name!r} is no script of Unicode; expected one like Latin, Hangul or Han"
                ) from None
        return scripts


class TruncatedRule(StageParams):
    """Answers of at least so many characters that stop in the middle."""

    enabled: bool
    characters: int = Field(ge=1)


class QualityParams(StageParams):
    """The rules that a row must keep; each can be turned off."""

    too_short: LengthRule
    too_long: LengthRule
    repetitive: RepetitiveRule
    boilerplate: BoilerplateRule
    wrong_language: LanguageRule
    truncated_answer: TruncatedRule


class RemovedShareParams(StageParams):
    """The greatest share of the rows that come to a step which it may leave out, by step."""

    quality: float = Field(ge=0, le=1)
    duplicates: float = Field(ge=0, le=1)
    leaks: float = Field(ge=0, le=1)


class CurationParams(StageParams):
    """`params/curation.yaml`."""

    validation_share: float = Field(gt=0, lt=0.5)
    test_share: float = Field(gt=0, lt=0.5)
    salt: str = Field(min_length=1)
    duplicate_similarity: float = Field(gt=0.5, le=1)
    leak_similarity: float = Field(gt=0.5, le=1)
    shingle_characters: int = Field(ge=2, le=20)
    permutations: int = Field(ge=16, le=1024)
    seed: int = Field(ge=0)
    max_removed_share: RemovedShareParams
    personal_data: PersonalDataParams
    quality: QualityParams


class Params(StageParams):
    """The params of this stage, one section a file."""

    curation: CurationParams
