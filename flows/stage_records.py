"""What DVC records of stages that ran: undone where it is not what made their outs.

DVC hashes what a stage depends on again once it has run, and records that. Params or code edited
meanwhile would be recorded as what made outs that know nothing of them, and no later night would
run the stage (https://github.com/treeverse/dvc/issues/11058). So a stage's key before it runs, and
what was recorded of it then, are kept in a file until it is known that the key is still the same.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from flows.differences import read_lock
from flows.graph import locked_run_cache, parse_lock, read_stage
from flows.workspace import STATE
from tasks.orchestration.stages import Stage
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically

_LOCK = "dvc.lock"


class _Begun(BaseModel):
    """A stage that was begun: its key, and what dvc.lock said of it, null where nothing."""

    key: str
    recorded: dict[str, Any] | None


def note_begin(root: Path, stage: Stage) -> None:
    """Keep what a stage is begun with."""
    begun = _Begun(key=stage.key, recorded=read_lock(root / _LOCK).get(stage.name))
    _file(root, stage.name).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_file(root, stage.name), begun.model_dump_json() + "\n")


def check_unchanged(root: Path, stage: Stage) -> None:
    """Check that a stage that ran depends on what it was begun with.

    Raises:
        ConfigError: it does not; what DVC recorded of it is undone.
    """
    now = read_stage(root, stage.name)
    if now.key == stage.key:
        _file(root, stage.name).unlink(missing_ok=True)
        return
    _undo(root, stage.name)
    before = {item.path: item.digest for item in stage.dependencies}
    changed = [item.path for item in now.dependencies if before.get(item.path) != item.digest]
    raise ConfigError(
        f"{stage.name}: {', '.join(changed or stage.params)} changed while it ran; expected params "
        "and code that stay, because what it made is of the old ones, of the new ones or of both",
        "run it again; edits while nights run belong into another clone",
    )


def undo_unchecked(root: Path, name: str) -> str | None:
    """Undo what was recorded of a stage whose night was killed before it was checked.

    Only where it is not what the stage was begun with; return a sentence on that.
    """
    path = _file(root, name)
    if not path.exists():
        return None
    now = read_stage(root, name)
    if not now.current or now.key == _Begun.model_validate_json(path.read_text("utf-8")).key:
        path.unlink()
        return None
    _undo(root, name)
    return f"{name} changed while it ran in a night that was killed: it runs again"


def _undo(root: Path, name: str) -> None:
    """Let DVC know of a stage what it knew before it was begun."""
    begun = _Begun.model_validate_json(_file(root, name).read_text("utf-8"))
    with locked_run_cache(root) as runs:
        content = parse_lock((root / _LOCK).read_text("utf-8"))
        wrong = content["stages"].get(name)
        if wrong != begun.recorded:
            for path in runs.glob("*/*/*"):
                if parse_lock(path.read_text("utf-8")) == wrong:
                    path.unlink()
                    with suppress(OSError):  # others are in it; DVC fails where it is empty
                        path.parent.rmdir()
            content["stages"] |= {name: begun.recorded}
            if begun.recorded is None:
                del content["stages"][name]
            write_atomically(root / _LOCK, yaml.safe_dump(content, sort_keys=False))
    _file(root, name).unlink()


def _file(root: Path, name: str) -> Path:
    return root / STATE / "begun" / f"{name}.json"
