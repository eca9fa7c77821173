"""The params of the validation stage."""

from pydantic import BaseModel, ConfigDict, Field

from tasks.stage.params import ComputeParams, StageParams


class ValidationParams(StageParams):
    """`params/validation.yaml`."""

    suites: str = Field(description="folder of records.yaml, documents.yaml and set.yaml")
    max_quarantine_share: float = Field(ge=0, le=1)
    batch_rows: int = Field(ge=1, le=1_000_000, description="rows checked at a time")
    vocabulary_rows: int = Field(ge=100, le=50_000, description="records whose words are profiled")
    embedding_rows: int = Field(ge=0, le=2000, description="records embedded; 0: none")


class TrainedForParams(BaseModel):
    """What validation reads of `params/task.yaml`; tokenization checks the file."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str

    @property
    def reads_tools(self) -> bool:
        """Return whether rows of tools are read: no other task's prompts show any."""
        return self.name == "tools"


class Params(StageParams):
    """The params of this stage, one section a file."""

    task: TrainedForParams
    validation: ValidationParams
    compute: ComputeParams
