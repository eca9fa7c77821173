"""Errors that end a stage, and the file in which a stage leaves its reason."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

FAILURE_FILE = "failure.json"
# What a night's record puts the path behind: a stage does not know where its lines are kept.
STAGE_LOG = "the stage's log"
_SHOWN = 90  # characters of a text
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^\s]*@")
_PASSWORD_OF_A_QUERY = re.compile(r"(?i)([?&](?:password|passwd|token|secret)=)[^&\s'\"]+")


def without_password(text: str) -> str:
    """Return a text with stars for the passwords of the URLs in it."""
    return _PASSWORD_OF_A_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


class NightloomError(Exception):
    """A failure that a person can mend: what was found and expected, and what to do about it.

    `message` says what was found, what was expected and why it matters; `remedy` says what to do.
    Neither shows the password of a URL, whatever it quotes.
    """

    def __init__(self, message: str, remedy: str) -> None:
        self.message = without_password(message)
        self.remedy = without_password(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n  what to do: {self.remedy}"


class DataError(NightloomError):
    """The data are not what the stage needs: mend the data."""


class ConfigError(NightloomError):
    """The params or the set-up are not what the stage needs: mend them."""


class DeviceError(NightloomError):
    """The device gave up (memory, driver): the one error that is worth a retry."""


class GateError(NightloomError):
    """A gate refused: Nightloom working as intended."""


def share_error(
    found: str,
    *,
    share: float,
    most: float,
    setting: str,
    why: str,
    by_cause: str,
    examples: Iterable[str],
    mending: str,
) -> GateError:
    """Return the error that stops a night which would leave too great a share of its rows out.

    `most` is the bound that `setting` names, which the remedy says how to raise; `why` it is there.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    enough = min(math.ceil(share * 100) / 100, 1.0)
    return GateError(
        f"{found}; expected at most {most:.1%} ({setting}), since {why}.\n"
        f"{by_cause}. For example:\n{lines}",
        f"{mending}; where they should go, let them: `--set {setting}={enough}`",
    )


def shown_text(text: str) -> str:
    """Return a text of the data as an error shows it: quoted, in one line, cut where it is long."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")


@dataclass(frozen=True)
class Failure:
    """Why a stage failed, as `failure.json` holds it."""

    error: str
    message: str
    remedy: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return the failure that an exception stands for; one that is not ours asks for a bug
        report.
        """
        if isinstance(error, NightloomError):
            return cls(type(error).__name__, error.message, error.remedy)
        return cls(
            type(error).__name__,
            without_password(str(error)) or "no message",
            f"read the traceback in {STAGE_LOG}; this one was not foreseen",
        )

    def write(self, folder: Path) -> None:
        """Write the failure into a stage's scratch folder."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2)
        (folder / FAILURE_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Failure | None":
        """Return the failure left in a stage's scratch folder, or None where there is no whole one.

        A disk that is full cuts it short.
        """
        try:
            return cls(**json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8")))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
