"""How many decisions the records of a test split have taken part in."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.stage.errors import DataError
from tasks.stage.outputs import write_atomically


class RecordUse(BaseModel):
    """Records by how many earlier decisions they have taken part in: decisions -> records.

    `uncounted` decisions kept no list of their records: they are of an older version, or the list
    is lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    counts: dict[int, int] = Field(min_length=1)
    uncounted: int = Field(ge=0)

    @property
    def records(self) -> int:
        """Return how many records the split has."""
        return sum(self.counts.values())

    @property
    def most(self) -> int:
        """Return the decisions of the record that took part in most."""
        return max(self.counts)

    @property
    def median(self) -> int:
        """Return the decisions that half of the records have taken part in, or fewer."""
        below = 0
        for decisions in sorted(self.counts):
            below += self.counts[decisions]
            if 2 * below >= self.records:
                return decisions
        raise AssertionError("the counts hold no record")

    @property
    def told(self) -> str:
        """Return it in a sentence."""
        text = (
            f"the {self.records} test records have taken part in {self.median} decisions so far "
            f"(median; {self.most} at most)"
        )
        if self.uncounted:
            text += f"; {self.uncounted} more decisions kept no list of their records"
        return text

    def above(self, bound: int) -> int:
        """Return how many records have taken part in more than `bound` decisions."""
        return sum(count for decisions, count in self.counts.items() if decisions > bound)

    @classmethod
    def read(cls, path: Path) -> "RecordUse":
        """Return what a file says.

        Raises:
            DataError: it is not there, or says something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError) as error:
            raise DataError(
                f"{path} does not tell how often the test records were decided on: {error}",
                "`nightloom release` writes it again, by its task `count_record_use`",
            ) from error

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")
