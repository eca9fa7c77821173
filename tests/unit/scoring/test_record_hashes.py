"""Records that a model may have learned are known again by hash, and none of the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.records.schema import Message, Record
from tasks.scoring.record_hashes import (
    find_learned,
    hash_asked,
    hash_learned,
    read_hashes,
    write_hashes,
)
from tasks.stage.errors import DataError


def record(name: str, question: str, group: str = "") -> Record:
    turns = (Message("user", question), Message("assistant", f"answer to {name}"))
    return Record(name, turns, (), "s", group or f"group of {name}", "test", "CC0", "n1")


def test_a_record_is_known_by_its_id_its_group_or_its_question() -> None:
    learned = hash_learned([record("a", "What?"), record("b", "Who?", "g")], [])
    others = [
        record("a", "another question"),
        record("c", "What?"),
        record("d", "yet another", "g"),
        record("e", "What else?"),
    ]
    assert find_learned(others, learned) == ["a", "c", "d"]


def test_a_duplicate_is_learned_with_the_record_that_stands_for_it() -> None:
    learned = hash_learned([record("a", "What?")], [("twin", "a"), ("other", "test record")])
    asked = [record("twin", "What??"), record("other", "?"), record("test record", "!")]
    assert find_learned(asked, learned) == ["twin"]


def test_the_same_question_after_other_turns_is_another_one() -> None:
    later = record("b", "Why?")
    context = (Message("user", "Hello"), Message("assistant", "Hello"))
    learned = hash_learned([replace(later, messages=(*context, *later.messages))], [])
    assert find_learned([record("c", "Why?")], learned) == []


def test_hashes_come_back_and_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    asked = [(f"r{number}", "q", "a") for number in range(50)]
    for name, order in (("one", asked), ("two", asked[::-1])):
        write_hashes(tmp_path / f"{name}.npy", hash_asked(order))
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    found = read_hashes(tmp_path / "one.npy")
    assert len(found) == 50
    assert len(np.intersect1d(found, hash_asked([("r1", "q", "other"), ("r2", "q", "a")]))) == 1


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_what_holds_no_hashes_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "learned.npy"
    if content is None:
        np.save(path, np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"learned\.npy holds"):
        read_hashes(path)
