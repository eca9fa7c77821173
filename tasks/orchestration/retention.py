"""How long what nights leave behind is kept: `params/retention.yaml`."""

from pydantic import Field

from tasks.stage.params import StageParams


class RetentionParams(StageParams):
    """`params/retention.yaml`; nothing that a version, a workspace or a branch needs goes."""

    each_night: bool = Field(description="whether each night's end deletes what is over")
    nights: int = Field(ge=1, description="last nights whose data and reports stay")
    record_days: int = Field(ge=1, description="of nights' files, and of their runs in Prefect")
    log_days: int = Field(ge=1, description="of the logs of nights")
    log_megabytes: float = Field(gt=0, description="after which a server's log is begun anew")
    download_days: int = Field(ge=0, description="of versions that were downloaded")
    scratch_days: int = Field(ge=1, description="of checkpoints and memos that nothing has used")
    workspace_days: int = Field(ge=1, description="of workspaces in which no night has run since")


class Params(StageParams):
    """The file that the flow is given."""

    retention: RetentionParams
