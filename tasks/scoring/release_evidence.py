"""What the release's tasks measure for the verdict, each in a JSON file of its own."""

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.stage.errors import DataError
from tasks.stage.outputs import write_atomically


class Strict(BaseModel):
    """A part of a file: nothing is converted, and no key is unknown."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ReleaseEvidence(Strict):
    """A whole file. `holds` is what it tells, `task` the release's task that writes it."""

    holds: ClassVar[str]
    task: ClassVar[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file holds.

        Raises:
            DataError: it is not there, or is something else.
        """
        remedy = f"`nightloom release` writes it again, by its task `{cls.task}`"
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"there is no {path}; expected {cls.holds}", remedy) from None
        except ValidationError as error:
            raise DataError(f"{path} does not tell {cls.holds}: {error}", remedy) from None

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")
