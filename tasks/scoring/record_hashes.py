"""Records by hash: which ones a model may have learned, and which ones a test split holds.

A hash is the first 64 bits of a SHA-256. Among a million learned records and 100,000 test records
the chance of one false match is about one in 20 million. A hash tells whether a given record is
among them, and nothing to who does not hold that record.
"""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.records.schema import Record
from tasks.records.text import text_sha256
from tasks.scoring.identity import Asked
from tasks.stage.errors import DataError
from tasks.stage.outputs import RESTORE

LEARNED_FILE = "learned.npy"

Hashes = NDArray[np.uint64]


def hash_learned(records: Iterable[Record], duplicates: Iterable[tuple[str, str]]) -> Hashes:
    """Return the hashes of what was learned: of each record its id, its group and what was asked.

    `duplicates` are (id, id of the record that stands for it): one that stands for a learned record
    is learned with it.
    """
    found = array("Q", (key for record in records for key in _learned_keys(record)))
    learned = np.unique(np.array(found, np.uint64))
    alike = [(_key("id", name), _key("id", kept)) for name, kept in duplicates]
    if not alike:
        return learned
    pairs = np.array(alike, np.uint64)
    return np.union1d(learned, pairs[np.isin(pairs[:, 1], learned), 0])


def hash_ids(ids: Iterable[str]) -> Hashes:
    """Return the hashes that `hash_learned` gives records of these ids, by their id alone."""
    return np.unique(np.array([_key("id", name) for name in ids], np.uint64))


def find_learned(records: Sequence[Record], learned: Hashes) -> list[str]:
    """Return the ids of the records that were learned: the record, its group or its question."""
    keys = np.array([_learned_keys(record) for record in records], np.uint64)
    among = np.isin(keys.reshape(len(records), -1), learned).any(axis=1)
    return [records[place].id for place in np.flatnonzero(among).tolist()]


def hash_asked(asked: Iterable[Asked]) -> Hashes:
    """Return the hashes of records by id, question and reference, ascending."""
    return np.unique(np.array([_key("asked", *texts) for texts in asked], np.uint64))


def write_hashes(path: Path, hashes: Hashes) -> None:
    """Write hashes as plain .npy, eight bytes each."""
    np.save(path, hashes.astype("<u8"), allow_pickle=False)


def read_hashes(path: Path) -> Hashes:
    """Return the hashes in a file.

    Raises:
        DataError: it holds something else.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} holds no hashes of records ({error})", RESTORE) from error
    if not isinstance(found, np.ndarray) or found.dtype != np.uint64 or found.ndim != 1:
        raise DataError(f"{path} holds something else than hashes of records", RESTORE)
    return found


def _learned_keys(record: Record) -> tuple[int, int, int]:
    turns = (text for turn in record.messages[:-1] for text in (turn.role, turn.content))
    return _key("id", record.id), _key("group", record.group), _key("question", *turns)


def _key(kind: str, *texts: str) -> int:
    return int(text_sha256(kind, *texts)[:16], 16)
