"""With real curation: after its salt changed, a bundle knows which new test records it learned."""

from pathlib import Path

import numpy as np
import pytest

from tasks.curation.__main__ import run
from tasks.packaging.__main__ import _learned
from tasks.records.schema import SPLITS, read_records
from tasks.scoring.record_hashes import find_learned
from tests.unit.curation.test_curation import changed, many, record, sentence
from tests.unit.curation.test_stage import accepted_rows


def curated(root: Path, **params: object) -> dict[str, set[str]]:
    """The ids of each split, by real curation of one small set."""
    twin = record("zz", "What is " + sentence(3) + "?", sentence(5003, 5))  # of r0003
    paths = accepted_rows(root, [*many(400), twin])
    run(changed(**params), paths)
    return {
        split: {row.id for row in read_records(paths.curated / f"{split}.jsonl")}
        for split in SPLITS
    }


@pytest.mark.parametrize("params", [{"salt": "another"}, {"test_share": 0.3}])
def test_after_a_changed_split_the_test_records_that_were_learned_are_known(
    tmp_path: Path, params: dict[str, object]
) -> None:
    before, after = curated(tmp_path / "before"), curated(tmp_path / "after", **params)
    learned = _learned(tmp_path / "before/curated")
    test = read_records(tmp_path / "after/curated/test.jsonl")
    found = set(find_learned(test, learned))
    assert found - {"zz"} == after["test"] & (before["train"] | before["validation"])
    assert 0 < len(found) < len(test) or params == {"salt": "another"}
    assert not found & before["test"]
    own = read_records(tmp_path / "before/curated/test.jsonl")
    assert find_learned(own, learned) == []


def test_a_row_left_out_as_a_duplicate_of_a_learned_one_is_learned_too(tmp_path: Path) -> None:
    splits = curated(tmp_path)
    learned = _learned(tmp_path / "curated")
    kept = "r0003" in splits["train"] | splits["validation"]
    twin = record("zz", "asked otherwise", "answered otherwise")
    assert bool(find_learned([twin], learned)) is kept
    assert learned.dtype == np.uint64
