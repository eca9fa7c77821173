"""Intakes taken back by a person, in a raw folder and in copies of it."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.ingestion.intake_files import intake_folders
from tasks.records.withdrawals import IntakeWithdrawal, intakes_file, withdrawn_intakes
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_atomically

_SHOWN = 3


@dataclass(frozen=True)
class IntakeSummary:
    """An intake as `nightloom intakes` lists it; `withdrawn` says why it is not current.

    `erased` rows of it are gone.
    """

    name: str
    when: str
    source: str
    origin: tuple[str, ...]
    records: int
    documents: int
    faulty: int
    erased: int
    withdrawn: IntakeWithdrawal | None


def list_intakes(raw: Path) -> list[IntakeSummary]:
    """Return all intakes, oldest first."""
    withdrawn = withdrawn_intakes(raw)
    return [_summary(folder, withdrawn.get(folder.name)) for folder in intake_folders(raw)]


def _summary(folder: Path, withdrawn: IntakeWithdrawal | None) -> IntakeSummary:
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    return IntakeSummary(
        name=folder.name,
        when=str(content["when"]),
        source=str(content["source"]),
        origin=tuple(content["origin"]),
        records=int(content["records"]),
        documents=int(content["documents"]),
        faulty=int(content["faulty"]),
        erased=len(content.get("erased", [])),
        withdrawn=withdrawn,
    )


def withdraw_intake(
    raw: Path, name: str, *, reason: str, by: str, now: datetime
) -> IntakeWithdrawal:
    """Take an intake out of what is current; its folder stays as it is.

    Raises:
        ConfigError: there is no such intake, or it was withdrawn already.
    """
    check_intake(raw, name)
    earlier = withdrawn_intakes(raw).get(name)
    if earlier is not None:
        raise no_change_error(earlier, name)
    found = IntakeWithdrawal(
        intake=name,
        reason=reason,
        by=by,
        when=now.astimezone(UTC).isoformat(timespec="seconds"),
        newest=intake_folders(raw)[-1].name,
    )
    write_atomically(intakes_file(raw, name), found.model_dump_json(indent=1) + "\n")
    return found


def restore_intake(raw: Path, name: str) -> None:
    """Make a withdrawn intake current again; rows that came in since stay, and replace its own.

    Raises:
        ConfigError: there is no such intake, or it is current.
    """
    check_intake(raw, name)
    if name not in withdrawn_intakes(raw):
        raise no_change_error(None, name)
    intakes_file(raw, name).unlink()


def no_change_error(withdrawn: IntakeWithdrawal | None, name: str) -> ConfigError:
    """Return the error for an intake that is withdrawn already, or that is current already."""
    if withdrawn is None:
        return ConfigError(
            f"intake {name} is not withdrawn", "`nightloom intakes` shows which ones are"
        )
    return ConfigError(
        f"intake {name} was withdrawn already, on {withdrawn.when} by {withdrawn.by}: "
        f"{withdrawn.reason}",
        f"nothing is left to do; `nightloom intakes withdraw {name} --undo --reason TEXT` "
        "makes it current again",
    )


def check_intake(raw: Path, name: str) -> None:
    """Check that there is an intake of this name.

    Raises:
        ConfigError: there is none.
    """
    known = [folder.name for folder in intake_folders(raw)]
    if name not in known:
        shown = ", ".join(known[-_SHOWN:]) or "none"
        more = f" and {len(known) - _SHOWN} older ones" if len(known) > _SHOWN else ""
        raise ConfigError(
            f"{raw} has no intake {name!r}; found {shown}{more}",
            "name one that `nightloom intakes` lists, in full",
        )


def copy_withdrawals(source: Path, target: Path) -> None:
    """Let what was withdrawn of a raw folder be withdrawn in a copy of it, as far as it is there.

    An intake that is current in `source` is current in the copy.
    """
    there = {folder.name for folder in intake_folders(target)}
    withdrawn = withdrawn_intakes(source)
    for name in sorted(there & {folder.name for folder in intake_folders(source)}):
        place = intakes_file(target, name)
        if name not in withdrawn:
            place.unlink(missing_ok=True)
        elif not place.exists():
            write_atomically(place, withdrawn[name].model_dump_json(indent=1) + "\n")
