"""Intakes taken back by a person, and rows withdrawn because their source no longer has them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.ingestion.intake_files import (
    intake_folders,
    intake_rows,
    line_digests,
    read_known,
    with_withdrawn_rows,
)
from tasks.ingestion.params import IngestionParams
from tasks.ingestion.row_formats import document_line, record_line
from tasks.ingestion.sources.opening import open_source
from tasks.ingestion.sources.source import KINDS, Kind, Source
from tasks.records.readers import read_kept_lines
from tasks.records.withdrawals import (
    IntakeWithdrawal,
    RowWithdrawal,
    intakes_file,
    rows_file,
    withdrawn_intakes,
)
from tasks.stage.errors import ConfigError, GateError
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


@task(name="withdraw", cache_policy=NO_CACHE, persist_result=False)
def withdraw(params: IngestionParams, raw: Path) -> None:
    """Withdraw the rows that the source no longer has, where params ask for that.

    Raises:
        GateError: more are missing than `max_missing_share` allows.
    """
    found = withdraw_missing(params, raw, datetime.now(UTC))
    for kind in KINDS:
        if found[kind]:
            get_run_logger().warning(
                "%d %s are withdrawn: source %s no longer has them",
                found[kind],
                kind,
                params.source,
            )


def withdraw_missing(params: IngestionParams, raw: Path, now: datetime) -> dict[Kind, int]:
    """Withdraw the rows that the source no longer has, and return how many of each kind.

    The source is read whole, each row of it, whatever `limit` takes in. Rows that came from other
    sources are not asked for. Nothing is withdrawn of a kind of which a line can't be read that
    could be read before: a row may stand in it.

    Raises:
        GateError: more are missing than `max_missing_share` allows.
    """
    if params.missing == "keep" or not intake_folders(raw):
        return dict.fromkeys(KINDS, 0)
    source = open_source(params, [])
    present = _present(raw, params.source)
    missing = {kind: _missing(source, kind, present[kind], raw) for kind in KINDS}
    for kind in KINDS:
        _check_share(kind, missing[kind], present[kind], params, raw)
    rows = [row for kind in KINDS for row in _withdrawals(kind, missing[kind], raw, params, now)]
    if rows:
        add_row_withdrawals(raw, rows)
    return {kind: len(missing[kind]) for kind in KINDS}


def add_row_withdrawals(raw: Path, rows: Iterable[RowWithdrawal]) -> None:
    """Withdraw rows of all intakes that there are now."""
    path = rows_file(raw, intake_folders(raw)[-1].name)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_atomically(path, before + "".join(f"{row.model_dump_json()}\n" for row in rows))


def _present(raw: Path, source: str) -> dict[Kind, set[bytes]]:
    """Return the keys of the current rows that last came from a source of this name."""
    found: dict[Kind, set[bytes]] = {kind: set() for kind in KINDS}
    for folder, gone in with_withdrawn_rows(raw):
        for kind in KINDS:
            if folder is not None:
                keys = {key for key, _ in intake_rows(folder, kind)}
                own = _summary(folder, None).source == source
                found[kind] = found[kind] | keys if own else found[kind] - keys
            found[kind] -= set(gone[kind])
    return found


def _missing(source: Source, kind: Kind, present: set[bytes], raw: Path) -> set[bytes]:
    """Return which of the keys the source does not offer, read to its end."""
    shape = record_line if kind == "records" else document_line
    missing, unread = set(present), set[bytes]()
    for found in source.read(kind):
        line = shape(found.line)
        keys, _ = line_digests(line)
        missing.difference_update(keys)
        if line.row is None:
            unread.add(keys[0])
    if missing and unread - read_known(raw)[kind].latest.keys():
        return set()
    return missing


def _check_share(
    kind: Kind, missing: set[bytes], present: set[bytes], params: IngestionParams, raw: Path
) -> None:
    share = len(missing) / max(len(present), 1)
    if share <= params.max_missing_share:
        return
    names = [name or "a line without an id" for name in _ids(raw, kind, missing).values()]
    raise GateError(
        f"{len(missing)} of {len(present)} {kind} that source {params.source} gave before are "
        f"missing from it ({share:.1%}), {', '.join(names[:_SHOWN])} for example; expected at most "
        f"{params.max_missing_share:.1%}, so that a broken export takes nothing away",
        "mend the source; where the rows really left it, raise ingestion.max_missing_share for one "
        "night, or set ingestion.missing to keep",
    )


def _withdrawals(
    kind: Kind, missing: set[bytes], raw: Path, params: IngestionParams, now: datetime
) -> Sequence[RowWithdrawal]:
    when = now.astimezone(UTC).isoformat(timespec="seconds")
    reason = f"source {params.source} no longer has it"
    return [
        RowWithdrawal(kind=kind, id=name, key=key.hex(), reason=reason, when=when)
        for key, name in sorted(_ids(raw, kind, missing).items())
    ]


def _ids(raw: Path, kind: Kind, keys: set[bytes]) -> Mapping[bytes, str | None]:
    """Return the ids of rows by their keys, None of rows that have none."""
    found: dict[bytes, str | None] = dict.fromkeys(keys)
    for folder in intake_folders(raw) if keys else ():
        path = folder / f"{kind}.jsonl"
        for line in read_kept_lines(path) if path.exists() else ():
            known_as, _ = line_digests(line)
            key = next((key for key in known_as if key in found), None)
            if key is not None and line.row is not None:
                identifier = line.row.get("id")
                found[key] = identifier if isinstance(identifier, str) else None
    return found
