"""How many decisions the records of a test split have taken part in."""

from typing import ClassVar

from pydantic import ConfigDict, Field

from tasks.scoring.release_evidence import ReleaseEvidence


class RecordUse(ReleaseEvidence):
    """Records by how many earlier decisions they have taken part in: decisions -> records.

    `uncounted` decisions kept no list of their records: they are of an older version, or the list
    is lost.
    """

    model_config = ConfigDict(strict=False)  # JSON's keys are texts
    holds: ClassVar[str] = "how often the test records were decided on"
    task: ClassVar[str] = "count_record_use"

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
