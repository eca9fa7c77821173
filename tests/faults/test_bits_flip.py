"""A bit that flips on the disk: in what a stage reads it is told, in scratch it costs time alone.

One bit a file by default; `make faults` flips more.
"""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.killing import Victim
from tests.faults.stages import StageForks
from tests.faults.test_writes_fail import OUTS, make_victim
from tests.unit.conftest import Tiny

BITS = 8 if os.environ.get("NIGHTLOOM_FAULTS") == "all" else 1  # of each file
SEED = 25


@pytest.fixture(params=list(OUTS))
def victim(
    request: pytest.FixtureRequest, tiny: Tiny, tokens: Path, forks: StageForks, tmp_path: Path
) -> Victim:
    return make_victim(request.param, tiny, tokens, forks, tmp_path)


def flips(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each file below a folder that holds something, with bits to flip, counted from its first."""
    drawn = random.Random(SEED)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if size := path.stat().st_size:
            for _ in range(BITS):
                yield path, drawn.randrange(8 * size)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.slow
def test_a_bit_that_flips_in_what_a_stage_reads_is_told(victim: Victim, tmp_path: Path) -> None:
    root = tmp_path / "night"
    read = {"curation": "accepted", "finetuning": "tokens", "indexing": "curated"}[victim.name]
    copy = tmp_path / "copy" / read
    shutil.copytree(victim.given[read], copy)
    damaged = victim.reading(read, copy)
    expected = damaged.finish(root)
    found = list(flips(copy))
    for path, bit in found:
        flip(path, bit)
        assert damaged.end(root) == 1, f"bit {bit} of {path} was not seen"
        assert path.name in damaged.forks.said, f"bit {bit} of {path} is told by another name"
        flip(path, bit)
        assert damaged.finish(root) == expected
    print(f"{victim.name}: {len(found)} bits of {read} flipped, all told")


@pytest.mark.slow
def test_a_bit_that_flips_in_a_checkpoint_or_memo_changes_no_byte_of_what_is_made(
    victim: Victim, tmp_path: Path
) -> None:
    root, kept = tmp_path / "night", tmp_path / "kept"
    expected = victim.finish(root)
    if victim.name == "finetuning":  # what a training leaves is used if it was cut short
        shutil.rmtree(root)
        victim.kill_at(8, root)
    shutil.copytree(root, kept)
    found = [(path.relative_to(kept), bit) for path, bit in flips(kept / "scratch")]
    for path, bit in found:
        shutil.rmtree(root)
        shutil.copytree(kept, root)
        flip(root / path, bit)
        assert victim.finish(root) == expected, f"bit {bit} of {path} is silently wrong"
    print(f"{victim.name}: {len(found)} bits of scratch flipped, none seen in what was made")
