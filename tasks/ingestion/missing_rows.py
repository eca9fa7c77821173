"""Rows that left their source: known from earlier intakes, and not there in a read of all of it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.ingestion.intake_files import id_keys, intake_folders, line_digests
from tasks.ingestion.params import SourceParams
from tasks.ingestion.reading import NightReader
from tasks.ingestion.sources.source import KINDS, Kind
from tasks.records.readers import read_kept_lines
from tasks.records.withdrawals import RowWithdrawal, rows_file
from tasks.stage.errors import GateError
from tasks.stage.outputs import write_atomically

_SHOWN = 3


@dataclass(frozen=True)
class MissingRows:
    """Rows of a kind that one source no longer has: their ids by key, None of a row without one.

    `unread` new lines of the source can't be read: where there are any, the rows may stand in them.
    """

    source: str
    kind: Kind
    names: Mapping[bytes, str | None]
    unread: int

    @property
    def are_withdrawn(self) -> bool:
        """Whether it is sure that the source has them no longer."""
        return not self.unread

    @property
    def told(self) -> str:
        """Return what becomes of them in a sentence."""
        if self.are_withdrawn:
            return (
                f"{len(self.names)} {self.kind} are withdrawn: source {self.source} no longer has "
                "them"
            )
        return (
            f"{len(self.names)} {self.kind} of source {self.source} are missing and stay: they may "
            f"stand in its {self.unread} new lines that can't be read"
        )


def find_missing(
    reader: NightReader, sources: Iterable[SourceParams], raw: Path
) -> list[MissingRows]:
    """Return what is missing from the sources that were read whole, where params withdraw it.

    Raises:
        GateError: more of a source's rows are missing than its `max_missing_share` allows.
    """
    found = []
    for params in sources:
        for kind in KINDS:
            missing = reader.missing(params.name, kind)
            if missing is None or not missing.keys:
                continue
            names = {
                key: name
                for key, name in _ids(raw, kind, missing.keys).items()
                # An intake of before may know it by its id in another Unicode form.
                if name is None or not missing.shown.intersection(id_keys(name))
            }
            if names and not missing.unread:
                _check_share(params, kind, names, missing.before)
            if names:
                found.append(MissingRows(params.name, kind, names, missing.unread))
    return found


def withdraw_rows(raw: Path, missing: Iterable[MissingRows], now: datetime) -> None:
    """Withdraw rows of all intakes that there are now: what a later one holds is current again."""
    rows = [row for item in missing if item.are_withdrawn for row in _withdrawals(item, now)]
    if rows:
        path = rows_file(raw, intake_folders(raw)[-1].name)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        write_atomically(path, before + "".join(f"{row.model_dump_json()}\n" for row in rows))


def _withdrawals(missing: MissingRows, now: datetime) -> Iterator[RowWithdrawal]:
    for key, name in sorted(missing.names.items()):
        yield RowWithdrawal(
            kind=missing.kind,
            id=name,
            key=(key if name is None else id_keys(name)[0]).hex(),
            reason=f"source {missing.source} no longer has it",
            when=now.astimezone(UTC).isoformat(timespec="seconds"),
        )


def _check_share(
    params: SourceParams, kind: Kind, names: Mapping[bytes, str | None], before: int
) -> None:
    share = len(names) / before
    if share <= params.max_missing_share:
        return
    shown = [name or "a line without an id" for name in names.values()]
    raise GateError(
        f"{len(names)} of {before} {kind} that source {params.name} gave before are missing from "
        f"it ({share:.1%}), {', '.join(shown[:_SHOWN])} for example; expected at most "
        f"{params.max_missing_share:.1%}, so that a broken export takes nothing away",
        f"mend the source; where the rows really left it, raise max_missing_share in the entry of "
        f"{params.name} in params/ingestion.yaml for one night, or set `missing: keep` there",
    )


def _ids(raw: Path, kind: Kind, keys: Iterable[bytes]) -> Mapping[bytes, str | None]:
    """Return the ids of rows by their keys, None of rows that have none."""
    found: dict[bytes, str | None] = dict.fromkeys(keys)
    for folder in intake_folders(raw):
        path = folder / f"{kind}.jsonl"
        for line in read_kept_lines(path) if path.exists() else ():
            known_as, _ = line_digests(line)
            key = next((key for key in known_as if key in found), None)
            if key is not None and line.row is not None:
                identifier = line.row.get("id")
                found[key] = identifier if isinstance(identifier, str) else None
    return found
