"""Why a split is empty, and what can fill it: other shares, smaller groups, or more rows."""

import math
from collections import Counter
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tasks.curation.params import CurationParams
from tasks.curation.preparation import Prepared
from tasks.curation.selection import Removals
from tasks.records.schema import SPLITS
from tasks.records.text import hash_share
from tasks.stage.errors import DataError

_STEP = 0.01  # of the shares that are tried
_GROUPS = (
    "give the records smaller groups: write a `group` into each row (a section, a page, or the "
    "row's own id), or name the column that holds one in params/ingestion.yaml "
    "(`columns: {records: {section: group}}`); without one a record's group is its first document"
)


def empty_split_error(
    prepared: Prepared, removals: Removals, params: CurationParams
) -> DataError | None:
    """Return which split is empty, and what fills it with these rows; None where none is."""
    stay = [row for row in range(len(prepared.ids)) if row not in removals]
    empty = [name for place, name in enumerate(SPLITS) if place not in set(prepared.splits[stay])]
    if not empty:
        return None
    reviewed = [row for row in stay if prepared.is_feedback[row]]
    groups = Counter(
        prepared.rows.record(row).group for row in stay if not prepared.is_feedback[row]
    )
    largest = "".join(f", the largest {name!r} with {rows}" for name, rows in groups.most_common(1))
    told = f"{len(groups)} group{'s' if len(groups) != 1 else ''}{largest}"
    if reviewed:
        told += f", and {len(reviewed)} of feedback, which is never in the test split"
    return DataError(
        f"the {empty[0]} split is empty: {len(stay)} of {len(prepared.ids)} records stay, in "
        f"{told}, and a group is never split; expected some records in each split, "
        "because training, early stopping and evaluation need one each",
        "; or ".join(_remedies(groups, params)),
    )


def _remedies(groups: Counter[str], params: CurationParams) -> list[str]:
    found = []
    shares = _filling_shares(groups, params)
    if shares is not None:
        test, validation = shares
        found.append(
            "let the splits have other shares of the groups: "
            f"`--set curation.test_share={test} --set curation.validation_share={validation}` "
            "leaves none empty"
        )
    if len(groups) < groups.total():
        found.append(_GROUPS)
    return [*found, "take more rows in, about more documents"]


def _filling_shares(groups: Counter[str], params: CurationParams) -> tuple[float, float] | None:
    """Return the shares of test and validation, nearest to those there are, that leave no split
    empty; None where there are none.
    """
    places = np.array(sorted(hash_share(name, params.salt) for name in groups))
    tried = [round(_STEP * number, 2) for number in range(1, math.ceil(0.5 / _STEP))]
    fitting = [pair for pair in product(tried, tried) if _fills(places, *pair)]
    now = params.test_share, params.validation_share
    return min(fitting, key=lambda pair: math.dist(pair, now), default=None)


def _fills(places: NDArray[np.float64], test: float, validation: float) -> bool:
    """Return whether groups at these places of [0, 1) come into all three splits."""
    ends = np.searchsorted(places, [test, test + validation])
    return bool(0 < ends[0] < ends[1] < len(places))
