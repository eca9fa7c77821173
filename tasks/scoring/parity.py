"""Parity: what the served models answered, beside what they answered in evaluation."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.records.schema import ServedModel
from tasks.stage.errors import DataError
from tasks.stage.outputs import write_atomically

PARITY_FILE = "parity.json"

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ModelParity(_Strict):
    """One model: how many test records it was asked, and how many answers were evaluation's own.

    `mean_score_difference` is the mean token F1 of the served answers minus that of evaluation's.
    """

    asked: int = Field(ge=0)
    agreeing: int = Field(ge=0)
    share: float = Field(ge=0, le=1, allow_inf_nan=False)
    mean_score_difference: _Finite


class Parity(_Strict):
    """`parity.json`: by model, the version that was served and the bundle it was made from."""

    models: dict[ServedModel, ModelParity]
    versions: dict[ServedModel, int]
    bundle_sha256: str

    @classmethod
    def read(cls, path: Path) -> "Parity":
        """Return the parity in a file.

        Raises:
            DataError: it is not there, or is something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"there is no {path}; expected what the served models answered, since what is "
                "promoted must be what was scored",
                "`nightloom release` writes it again, by its task `verify`",
            ) from None
        except ValidationError as error:
            raise DataError(
                f"{path} holds no parity that can be judged: {error}",
                "`nightloom release` writes it again, by its task `verify`",
            ) from None

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")
