"""Shadow: what a candidate and its champion answer to questions that were really asked."""

from typing import ClassVar

from pydantic import Field

from tasks.records.schema import ServedModel
from tasks.scoring.release_evidence import ReleaseEvidence, Strict

SHADOW_FILE = "shadow.json"


class ShadowSide(Strict):
    """One version's answers: how many abstain, and how well the others rest on their passages.

    `groundedness` is the mean share, None where no answer that claims something saw a passage.
    """

    abstained: int = Field(ge=0)
    groundedness: float | None = Field(ge=0, le=1, allow_inf_nan=False)


class ModelShadow(Strict):
    """A candidate beside its champion, over the same served questions."""

    champion: str
    questions: int = Field(ge=1)
    differing: int = Field(ge=0)
    candidate_side: ShadowSide
    champion_side: ShadowSide

    @property
    def differing_share(self) -> float:
        """Return the share of the questions that are answered otherwise."""
        return self.differing / self.questions

    def summary(self, model: ServedModel) -> str:
        """Return what a person asks of it, in a sentence."""
        mine, theirs = self.candidate_side, self.champion_side
        text = (
            f"{model}: of {self.questions} served questions {self.differing_share:.0%} are "
            f"answered otherwise than by {self.champion}; {mine.abstained} answers abstain, "
            f"{theirs.abstained} of the champion's"
        )
        if mine.groundedness is not None and theirs.groundedness is not None:
            text += (
                f"; groundedness {mine.groundedness:.2f}, the champion's {theirs.groundedness:.2f}"
            )
        return text


class Shadow(ReleaseEvidence):
    """`shadow.json`: by model, of the bundle that it was measured on.

    A model is left out where no question was served lately, or no other version is champion.
    """

    holds: ClassVar[str] = "what the candidate answers to served questions"
    task: ClassVar[str] = "shadow"

    bundle_sha256: str
    days: int = Field(ge=1)
    models: dict[ServedModel, ModelShadow]
