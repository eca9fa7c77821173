"""Why a child failed, by what it left behind and what it printed."""

from collections.abc import Sequence
from pathlib import Path

from tasks.stage.errors import (
    ConfigError,
    DataError,
    DeviceError,
    Failure,
    GateError,
    NightloomError,
)

_KNOWN: dict[str, type[NightloomError]] = {
    cls.__name__: cls for cls in (ConfigError, DataError, DeviceError, GateError)
}
_REMEDY = "\n  what to do: "
_LAST_LINES = 12


class StageError(NightloomError):
    """A stage ended in a way that it did not foresee; `kind` is the class it names."""

    def __init__(self, message: str, remedy: str, kind: str) -> None:
        super().__init__(message, remedy)
        self.kind = kind


def stage_error(stage: str, failure: Failure) -> NightloomError:
    """The error that a failure stands for, its message beginning with the stage's name."""
    message = f"{stage}: {failure.message}"
    known = _KNOWN.get(failure.error)
    if known is None:
        return StageError(message, failure.remedy, failure.error)
    return known(message, failure.remedy)


def error_class(error: BaseException) -> str:
    """The class name by which an error is reported."""
    return error.kind if isinstance(error, StageError) else type(error).__name__


def left_failure(scratch: Path, code: int, lines: Sequence[str]) -> Failure:
    """What a child left in its scratch folder; its last lines where it left nothing."""
    return Failure.read(scratch) or _unforeseen(code, lines)


def printed_failure(code: int, lines: Sequence[str]) -> Failure:
    """The error that a child printed last, with its class; its last lines where it named none."""
    text = "\n".join(lines)
    begin, name = max((text.rfind(f"{name}: "), name) for name in _KNOWN)
    message, _, remedy = text[max(begin, 0) :].partition(_REMEDY)
    if begin < 0 or not remedy:
        return _unforeseen(code, lines)
    return Failure(name, message.removeprefix(f"{name}: "), remedy)


def last_lines(lines: Sequence[str]) -> str:
    """What a child printed last, for a message."""
    return "\n".join(lines[-_LAST_LINES:])


def _unforeseen(code: int, lines: Sequence[str]) -> Failure:
    return Failure(
        "ProcessError",
        f"ended with exit code {code} and left no reason; it printed last:\n{last_lines(lines)}",
        "read these lines; a process that was killed may have run out of memory",
    )
