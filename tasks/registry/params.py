"""Params of the release: who moves a version on, and which versions are kept."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.stage.params import StageParams

Policy = Literal["automatic", "approval", "manual"]


class VersionRetentionParams(StageParams):
    """Which versions stay."""

    at_release: bool = Field(
        description="whether each release deletes the others; else `nightloom prune` does"
    )
    archived: int = Field(ge=0, description="the newest archived versions of each model stay")
    days: int = Field(ge=0, description="younger versions stay, whatever they are")
    rollback_targets: int = Field(
        ge=1, description="versions that were in production last, which a rollback may need"
    )


class ReleaseParams(StageParams):
    """`params/release.yaml`."""

    staging: Policy = Field(description="how a version that passed every rule gets to staging")
    production: Policy = Field(description="how a version in staging gets to production")
    approval_hours: float = Field(gt=0, le=720, description="then it is not promoted")
    wait_seconds: float = Field(ge=0, le=86400, description="for another promoter to be done")
    golden_mismatch: float = Field(
        ge=0,
        lt=1,
        description="share of golden prompts that a rollback may find answered otherwise",
    )
    erased_champion: Literal["keep", "stop"] = Field(
        description="whether a version that held an erased row serves until another is promoted"
    )
    retention: VersionRetentionParams

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.staging == "manual" and self.production != "manual":
            raise ValueError(
                f"staging is manual and production {self.production}: a version gets to production "
                "through staging, so nothing would ever happen by itself; expected production: "
                "manual, or another staging"
            )
        return self


class Params(StageParams):
    """The file that a release is given."""

    release: ReleaseParams
