"""Checkpoints of a training: found again when whole, ignored when torn."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.stage.outputs import write_atomically

STATE_FILE = "trainer_state.json"
_INITIAL_FILE = "initial_loss.json"
_FILES = (STATE_FILE, "optimizer.pt", "scheduler.pt", "rng_state.pth")


def latest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest step, or None; torn ones are left out."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if _is_whole(path)]
    return whole[-1] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    if not all((checkpoint / name).is_file() for name in _FILES):
        return False
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def initial_loss(folder: Path, measure: Callable[[], float]) -> float:
    """The validation loss before the first step: measured once, remembered for a resume."""
    path = folder / _INITIAL_FILE
    if not path.exists():
        write_atomically(path, json.dumps(measure()))
    return float(json.loads(path.read_text(encoding="utf-8")))


def checkpoint_folder(scratch: Path, identity: str) -> Path:
    """This training's own checkpoint folder; those of other trainings are removed."""
    parent = scratch / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.iterdir():
        if path.name != identity:
            shutil.rmtree(path)
    return parent / identity
