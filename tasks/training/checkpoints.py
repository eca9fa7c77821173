"""Checkpoints of a training: sealed when written, found again when whole, ignored when torn.

The Trainer's own are written into place file by file, rotated by the clock and taken by the highest
number, torn or not; here a manifest is what makes one, and its step is all that orders it.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.records.text import text_sha256
from tasks.stage.errors import DataError
from tasks.stage.outputs import MANIFEST, seal, verified, write_atomically

LOGGER = logging.getLogger(__name__)
STATE_FILE = "trainer_state.json"
_FOLDER = "checkpoints"
_PREFIX = "checkpoint-"
_ASIDE = "aside-"


def seal_checkpoint(folder: Path, step: int, *, best_step: int | None) -> None:
    """Make the checkpoint of a step whole; of the others only the best one stays."""
    seal(folder / f"{_PREFIX}{step}")
    for path in _checkpoints(folder):
        if checkpoint_step(path) not in (step, best_step):
            (path / MANIFEST).unlink(missing_ok=True)  # a kill from here on leaves a torn one
            shutil.rmtree(path)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint with the highest step that is whole, its best one too; None where none
    is.
    """
    return next((path for path in reversed(_checkpoints(folder)) if _is_whole(path)), None)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the optimizer steps that a checkpoint stands for."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def was_over(checkpoint: Path) -> bool:
    """Return whether a training had ended, early or not, when it wrote this checkpoint."""
    state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return bool(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"), key=checkpoint_step)


def _is_whole(checkpoint: Path) -> bool:
    """Return whether all bytes of a checkpoint, and of the best one it names, are as written."""
    try:
        state = json.loads((verified(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
        if state["best_global_step"]:
            verified(checkpoint.with_name(f"{_PREFIX}{state['best_global_step']}"))
    except (DataError, OSError, ValueError, KeyError) as error:
        told = error.message if isinstance(error, DataError) else error
        LOGGER.warning("%s is not whole and not used: %s", checkpoint.name, told)
        return False
    return True


def remembers(folder: Path, name: str) -> bool:
    """Return whether `remembered` has a number of this name."""
    return _recall(folder / f"{name}.json") is not None


def remembered(folder: Path, name: str, measure: Callable[[], float]) -> float:
    """Return what was measured before the first step, once; a training that goes on recalls it.

    It is measured again where the file is not as it was written.
    """
    path = folder / f"{name}.json"
    known = _recall(path)
    if known is None:
        known = float(measure())
        write_atomically(path, json.dumps({"value": known, "sha256": text_sha256(repr(known))}))
    return known


def _recall(path: Path) -> float | None:
    """Return the number that a file keeps, None where its hash is another one's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        value = float(found["value"])
        return value if found["sha256"] == text_sha256(repr(value)) else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def drop_checkpoints(scratch: Path) -> None:
    """Remove all checkpoints, once what a training made lies where it belongs."""
    shutil.rmtree(scratch / _FOLDER, ignore_errors=True)


def checkpoint_folder(scratch: Path, identity: str) -> Path:
    """Return this training's own checkpoint folder.

    Those of other trainings (another base, other data or params) are refused and set aside, until a
    training ends well, for whoever wants to know what they had learned.
    """
    parent = scratch / _FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.iterdir():
        if path.name != identity and not path.name.startswith(_ASIDE):
            aside = path.with_name(f"{_ASIDE}{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            LOGGER.warning(
                "checkpoints of a training with another base, other data or other params are "
                "not gone on from: %s",
                path.name[:12],
            )
    return parent / identity
