"""One night's sources, read one after the other: what is new goes to the intake to come."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tasks.ingestion.erased_rows import ErasedRows, erased_file
from tasks.ingestion.intake_files import IntakeWriter, line_digests, read_known, read_marks
from tasks.ingestion.params import IngestionParams, SourceParams
from tasks.ingestion.row_formats import document_line, record_line
from tasks.ingestion.row_ids import has_derived_id, with_row
from tasks.ingestion.sampling import Sample, choose_documents, choose_records, gold
from tasks.ingestion.sources.opening import open_source
from tasks.ingestion.sources.source import KINDS, Found, Kind, Source
from tasks.ingestion.unnamed_rows import UnnamedRows, find_unnamed_rows
from tasks.records.readers import Line
from tasks.services.stores import Stores
from tasks.stage.errors import DataError, Failure, NightloomError


class _SourceError(Exception):
    """What a source raised as it was opened or read is its cause."""


@dataclass(frozen=True, slots=True)
class Offered(Found):
    """A row that a source offers, in our shape; `is_unnamed`: its id was made of its content."""

    is_unnamed: bool


@dataclass(frozen=True)
class Shown:
    """What the rows of a kind are known by, read to their end; `faults` are lines that say none."""

    keys: set[bytes] = field(default_factory=set)
    faults: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Missing:
    """What a source gave before and does not show: `keys`, of the `before` rows that are current.

    `unread` new lines of it can't be read: such a row may stand in one.
    """

    keys: frozenset[bytes]
    before: int
    shown: set[bytes]
    unread: int


@dataclass
class OpenSource:
    """A source that is read tonight, and what was counted while its rows came by.

    `mapped` are its columns that params name otherwise, `unread` counts the new rows that hold a
    column or message key that nobody reads. `erased` counts the rows that it offers though they
    were erased; `shown` are the kinds that were read to their end, where rows that are not there
    are to be withdrawn.
    """

    params: SourceParams
    source: Source
    unnamed_rows: UnnamedRows = field(default_factory=lambda: UnnamedRows({}))
    offered: Counter[Kind] = field(default_factory=Counter)
    erased: Counter[Kind] = field(default_factory=Counter)
    shown: dict[Kind, Shown] = field(default_factory=dict)
    unnamed: int = 0
    repeated: int = 0
    mapped: dict[Kind, set[str]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    unread: dict[Kind, Counter[str]] = field(
        default_factory=lambda: {kind: Counter() for kind in KINDS}
    )

    @property
    def unmet(self) -> dict[Kind, list[str]]:
        """Return the columns that params name otherwise and no row that was offered has."""
        return {
            kind: [name for name in names if self.offered[kind] and name not in self.mapped[kind]]
            for kind, names in self.params.mapped_columns.items()
        }

    def rows(self, kind: Kind) -> Iterator[Offered]:
        """Yield the rows of a kind, each under the id that it is known by.

        Raises:
            _SourceError: the source can't be read.
        """
        for offered in self.as_offered(kind):
            if offered.is_unnamed:
                line = self.unnamed_rows.named(kind, offered.line)
                yield Offered(offered.file, line, is_unnamed=True)
            else:
                yield offered

    def as_offered(self, kind: Kind) -> Iterator[Offered]:
        """Yield the rows of a kind under their own ids, else under ones made of their content."""
        shape = record_line if kind == "records" else document_line
        with _blamed():
            for found in self.source.read(kind):
                line = shape(found.line)
                # An id that is there is made of content too where our own rows come back.
                has_own = (found.line.row or {}).get("id") is not None
                is_unnamed = line.row is not None and (not has_own or has_derived_id(line))
                yield Offered(found.file, self._settled(line, is_unnamed=is_unnamed), is_unnamed)

    def _settled(self, line: Line, *, is_unnamed: bool) -> Line:
        """Return a line with what params say of all rows of this source."""
        license_, prefix = self.params.license, self.params.id_prefix
        if line.row is None or (license_ is None and prefix is None):
            return line
        row = dict(line.row)
        if license_ is not None and not row.get("license"):
            row["license"] = license_
        if prefix is not None and not is_unnamed and isinstance(row.get("id"), str):
            row["id"] = prefix + row["id"]
        if prefix is not None and self.params.gives_documents and gold(line):
            row["documents"] = [prefix + name for name in gold(line)]
        return with_row(line, row)


class NightReader:
    """Reads sources into an intake to come.

    `opened` are the sources by name; `left_out` says why others were not read, or not to the end.
    """

    def __init__(
        self, params: IngestionParams, raw: Path, writer: IntakeWriter, stores: Stores | None
    ) -> None:
        self._longest = params.longest_line_bytes
        self._stores = stores
        self._raw = raw
        self._writer = writer
        self._names = {source.name for source in params.sources}
        self._several = len(params.sources) > 1
        self._has_limit = any(source.limit is not None for source in params.sources)
        withdraws = any(source.missing == "withdraw" for source in params.sources)
        self._known = read_known(raw, owned=self._several or withdraws)
        self._erased = ErasedRows.read(erased_file(raw))
        self._claimed: dict[Kind, dict[bytes, str]] = {kind: {} for kind in KINDS}
        self._needed: set[str] = set()
        self.opened: dict[str, OpenSource] = {}
        self.left_out: dict[str, str] = {}
        for source in params.sources:
            with self._may_fail(source), _blamed():
                self.opened[source.name] = self._open(source)

    def read(self, params: SourceParams, kind: Kind) -> None:
        """Write a source's new rows of a kind; records come before documents.

        Raises:
            DataError: it can't be read and params say `fail`, or another source has one of its ids.
            ConfigError: it can't be read and params say `fail`.
        """
        source = self.opened.get(params.name)
        gives = params.gives_records if kind == "records" else params.gives_documents
        if source is None or not gives:
            return
        with self._may_fail(params):
            self._copy(source, kind, self._sample(source, kind))
            came = source.offered[kind] + source.erased[kind]
            if kind == "records" and not came and not source.source.increments:
                with _blamed():
                    raise DataError(
                        "it gave no records; expected at least one",
                        "mend the source or its entry in params/ingestion.yaml",
                    )

    def missing(self, name: str, kind: Kind) -> Missing | None:
        """Return which rows of a source it no longer has; None where that can't be told.

        It can where params withdraw them, and the source shows all of its rows and was read to its
        end, whatever a limit takes in. A row that another of tonight's sources has is not missing.
        """
        source = self.opened.get(name)  # None where it was left out
        if source is None or kind not in source.shown or source.source.increments:
            return None
        known, shown = self._known[kind], source.shown[kind]
        before = {key for key in known.latest if known.owners[key] == name}
        others = {key for key, owner in self._claimed[kind].items() if owner != name}
        return Missing(
            keys=frozenset(before - shown.keys - others),
            before=len(before),
            shown=shown.keys,
            unread=len(shown.faults - known.latest.keys()),
        )

    def _open(self, params: SourceParams) -> OpenSource:
        marks = read_marks(self._raw, params.name)
        source = OpenSource(params, open_source(params, self._longest, marks, self._stores))
        source.unnamed_rows = find_unnamed_rows(
            self._raw,
            params.name,
            {kind: _unnamed_lines(source.as_offered(kind)) for kind in KINDS},
            others=self._names - {params.name},
            is_whole=not source.source.increments,
        )
        return source

    @contextmanager
    def _may_fail(self, params: SourceParams) -> Iterator[None]:
        """Leave a source out that fails within, or let its failure end the night."""
        try:
            yield
        except _SourceError as failure:
            error = failure.__cause__
            assert error is not None
            if params.on_failure == "fail":
                raise _named(error, params.name) from None
            self.left_out[params.name] = _told(error)
            if self.opened.pop(params.name, None) is not None:
                self._writer.drop(params.name)

    def _sample(self, source: OpenSource, kind: Kind) -> Sample | None:
        limit = source.params.limit
        if limit is None:
            return None
        if kind == "records":
            return choose_records(self._rows(source, kind), limit)
        return choose_documents(self._rows(source, kind), frozenset(self._needed))

    def _rows(self, source: OpenSource, kind: Kind) -> Iterator[Offered]:
        """Yield a source's rows of a kind, but those that were erased; note which ones it has."""
        source.erased[kind] = 0
        shown, is_asked = Shown(), source.params.missing == "withdraw"
        for offered in source.rows(kind):
            if self._erased.hold(kind, offered.line):
                source.erased[kind] += 1
                continue
            if is_asked:
                keys, _ = line_digests(offered.line)
                shown.keys.update(keys)
                if offered.line.row is None:
                    shown.faults.update(keys)
            yield offered
        if is_asked:
            source.shown[kind] = shown

    def _copy(self, source: OpenSource, kind: Kind, sample: Sample | None) -> None:
        """Write the rows of a sample, or all of them, that are new."""
        part, known = self._writer.part(source.params.name), self._known[kind]
        unnamed: set[bytes] = set()
        rows = self._rows(source, kind)
        for offered in rows if sample is None else sample.of(rows):
            source.offered[kind] += 1
            source.mapped[kind].update(offered.line.mapped)
            if self._has_limit and kind == "records":
                self._needed.update(gold(offered.line))
            keys, digest = line_digests(offered.line)
            key = keys[0]
            if key in unnamed or self._is_anothers(source.params.name, kind, offered, keys):
                source.repeated += 1
                continue
            if offered.is_unnamed:
                unnamed.add(key)
            if not known.holds(keys, digest) or self._changes_source(source, kind, keys):
                part.write(kind, offered, key, digest)
                source.unnamed += offered.is_unnamed
                source.unread[kind].update(offered.line.unread)

    def _changes_source(self, source: OpenSource, kind: Kind, keys: Sequence[bytes]) -> bool:
        """Return whether a row is known as another source's: of several, each must be the row's."""
        return self._several and self._known[kind].owner(keys) != source.params.name

    def _is_anothers(self, name: str, kind: Kind, offered: Offered, keys: Sequence[bytes]) -> bool:
        """Return whether another of tonight's sources has this very row, which has no id.

        Raises:
            DataError: another one has a row of this id.
        """
        if not self._several:
            return False
        owner = self._claimed[kind].setdefault(keys[0], name)
        if owner == name:
            before = self._known[kind].owner(keys) or name
            owner = before if self._shows_a_part(before) else name
        if owner == name:
            return False
        row = offered.line.row
        if offered.is_unnamed or row is None:
            return True
        raise DataError(
            f"id {row.get('id')!r} is in source {owner} and in source {name}; expected every id "
            f"in one of them, since of two rows of one id the later one replaces the other",
            f"set id_prefix in the entry of {name} in params/ingestion.yaml (e.g. `id_prefix: "
            f"{name}/`), or take the row out of one of them",
        )

    def _shows_a_part(self, name: str) -> bool:
        """Return whether a source's rows that are not offered tonight may still be there."""
        source = self.opened.get(name)
        return name in self.left_out or (source is not None and source.source.increments)


def _unnamed_lines(rows: Iterable[Offered]) -> Iterator[Line]:
    return (offered.line for offered in rows if offered.is_unnamed)


@contextmanager
def _blamed() -> Iterator[None]:
    """Say of what is raised within that the source raised it."""
    try:
        yield
    except (_SourceError, GeneratorExit):
        raise
    except Exception as error:
        raise _SourceError from error


def _named(error: BaseException, name: str) -> BaseException:
    """Return a source's error with its name; one that was not foreseen stays as it is."""
    if isinstance(error, NightloomError):
        return type(error)(f"source {name}: {error.message}", error.remedy)
    return error


def _told(error: BaseException) -> str:
    """Return an error in one line."""
    failure = Failure.of(error)
    return " ".join(f"{failure.error}: {failure.message} (what to do: {failure.remedy})".split())
