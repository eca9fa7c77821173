"""A disk that fails at any write of a stage: told, nothing that was whole is lost, and the next run
makes the very bytes.

Some places by default; `make faults` fails at every one.
"""

import errno
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tasks.curation.__main__ import Paths as CurationPaths
from tasks.finetuning.__main__ import Paths as FinetuningPaths
from tasks.indexing.__main__ import Paths as IndexingPaths
from tasks.records.schema import Document
from tasks.stage.errors import DataError
from tasks.stage.outputs import folder_files, verified
from tests.faults.failing_writes import Fault, changes_counted
from tests.faults.killing import Victim
from tests.faults.stages import StageForks
from tests.faults.test_training_killed import COMPUTE, TRAINING
from tests.unit.conftest import Tiny
from tests.unit.curation.test_curation import many
from tests.unit.curation.test_stage import accepted_rows

ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
SEED = 25
PLACES = 5  # by default, of each stage
CUTS = (1, 200, 3000, 20_000)  # bytes
OUTS = {
    "curation": ("curated", "curation_report"),
    "finetuning": ("adapter", "finetuning_report"),
    "indexing": ("index", "indexing_report"),
}


@pytest.fixture(params=list(OUTS))
def victim(
    request: pytest.FixtureRequest, tiny: Tiny, tokens: Path, forks: StageForks, tmp_path: Path
) -> Victim:
    return make_victim(request.param, tiny, tokens, forks, tmp_path)


def make_victim(name: str, tiny: Tiny, tokens: Path, forks: StageForks, folder: Path) -> Victim:
    """A stage of OUTS with its inputs."""
    if name == "curation":
        rows = accepted_rows(folder / "given", many(150), [Document("d", "Cafes.", "", "", "")])
        given = {"accepted": rows.accepted}
        return Victim("curation", CurationPaths, {"curation": {}}, given, "curated", forks)
    if name == "finetuning":
        changes = {"finetuning": TRAINING, "models": {}, "compute": COMPUTE}
        given = {"tokens": tokens, "base": tiny.base, "model_store": tiny.store}
        return Victim("finetuning", FinetuningPaths, changes, given, "adapter", forks)
    names = ("task", "indexing", "prompting", "reranking")
    changes = {name: {} for name in names} | {"compute": COMPUTE}
    given = {name: getattr(tiny, name) for name in ("curated", "base", "retriever", "reranker")}
    given["model_store"] = tiny.store
    return Victim("indexing", IndexingPaths, changes, given, "index", forks)


def plan(root: Path, changes: int) -> list[Fault]:
    """The faults of one stage: full disks and I/O errors in turn at its changes, and cut files."""
    drawn = random.Random(SEED)
    places = range(1, changes + 1)
    if not ALL:
        places = sorted(drawn.sample(places, PLACES))
    errors = (errno.ENOSPC, errno.EIO)
    failing = [Fault(str(root), at, errors[n % 2]) for n, at in enumerate(places)]
    cuts = CUTS if ALL else drawn.sample(CUTS, 2)
    return [*failing, *(Fault(str(root), file_bytes=size) for size in cuts)]


def made(folder: Path) -> dict[str, str] | None:
    """The files of an out, None where the next stage would not read it."""
    try:
        return folder_files(verified(folder))
    except DataError:
        return None


@pytest.mark.slow
def test_a_write_that_fails_is_told_and_the_next_run_makes_the_same(
    victim: Victim, tmp_path: Path
) -> None:
    root = tmp_path / "night"
    expected = victim.finish(root, Fault(str(root)))
    changes = int(changes_counted(root).read_text())
    ended: Counter[str] = Counter()
    for fault in plan(root, changes):
        code = victim.end(root, fault)
        said = victim.forks.said
        left = made(root / victim.made)
        # Whole as before, or refused by whoever reads it: never another one that looks whole.
        assert left in (None, expected), f"{fault} is silently wrong"
        assert code == 0 or fault.file_bytes or "what to do:" in said, f"{fault}: {said}"
        if code == 0:  # what failed was not needed
            assert left == expected, f"{fault}: it said that all went well"
        ended["not needed" if code == 0 else "told"] += 1
        assert victim.finish(root) == expected, f"{fault}: the next run made something else"
        assert all(made(root / name) is not None for name in OUTS[victim.name])
        assert not list(root.glob(".*.partial")), f"{fault} left something behind"
    print(f"{victim.name}: {changes} changes, seed {SEED}: {dict(ended)}, 0 silently wrong")
    assert ended["told"] > 0
