"""What a text leaves in files and databases: found in every form it is written in, and wiped."""

import bz2
import gzip
import html
import io
import json
import lzma
import re
import sqlite3
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.services.databases import with_psycopg
from tasks.stage.errors import ConfigError
from tasks.stage.pages import plain_markdown

# Fewer bytes are said by chance, and more are cut: by a passage's bound, or by a report's.
_PIECE_BYTES = 24
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|[\r\n]+")
_WORD = re.compile(r"\S+")
_ID_KEYS = ("id", "record", "document", "kept")
_LOCK_SECONDS = 60.0
_DEEPEST = 4
# Two words, a number, an address, or another script than ASCII's.
_TELLING = re.compile(r"\s|\d|@|[^\x00-\x7f]")
_PACKED: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}
_NAMES = ("key", "name")  # columns by which rows are found
_TEXT_TYPES = ("CHAR", "TEXT", "CLOB", "JSON", "BLOB")


def pieces(text: str) -> set[str]:
    """Return what a text is found by: runs of whole words of one sentence, of 24 bytes or more.

    A sentence that is shorter as a whole is one piece if it has half as many bytes, and is more
    than one plain word, which others say too. A run stands as it is, and with single spaces.
    """
    found = set()
    for sentence in filter(None, map(str.strip, _SENTENCE.split(text))):
        words, run = list(_WORD.finditer(sentence)), list[re.Match[str]]()
        for word in words:
            run.append(word)
            if _size(run) >= _PIECE_BYTES:
                found |= _as_written(run)
                run = []
        if run == words and _size(run) * 2 >= _PIECE_BYTES and _TELLING.search(sentence):
            found |= _as_written(run)
    return found


def _as_written(run: Sequence[re.Match[str]]) -> set[str]:
    """Return a run of words with the space between them, and with single spaces."""
    return {run[0].string[run[0].start() : run[-1].end()], " ".join(word[0] for word in run)}


def _size(words: Sequence[re.Match[str]]) -> int:
    return len(" ".join(word[0] for word in words).encode(errors="replace"))


@dataclass(frozen=True)
class Traces:
    """What shows that a file holds a row: `texts` that no other row says, and the row's `ids`."""

    texts: frozenset[str]
    ids: frozenset[str]

    @cached_property
    def forms(self) -> tuple[bytes, ...]:
        """Return the texts as files hold them, longest first."""
        return _longest_first(form for text in self.texts for form in _written(text))

    @cached_property
    def _named(self) -> tuple[bytes, ...]:
        """Return the ids as JSON and an error's message hold them, where a row is named by it."""
        forms = [
            f'"{key}":{space}{json.dumps(name, ensure_ascii=ascii_)}'
            for name in self.ids
            for key in _ID_KEYS
            for space in ("", " ")
            for ascii_ in (True, False)
        ]
        forms += [f"(id {name!r})" for name in self.ids]
        return _longest_first(form.encode(errors="replace") for form in forms)

    def in_bytes(self, content: bytes, *, ids: bool) -> bool:
        """Return whether bytes hold one of the texts, or of the `ids` too."""
        return any(form in content for form in (*self.forms, *(self._named if ids else ())))

    def in_file(self, path: Path, *, ids: bool = True) -> bool:
        """Return whether a file holds one; archives, Parquet and what is packed are opened."""
        return any(self.in_bytes(content, ids=ids) for content in contents(path.read_bytes()))

    def overwritten(self, content: bytes) -> bytes:
        """Return bytes of the same length with stars for the texts."""
        for form in self.forms:
            content = content.replace(form, b"*" * len(form))
        return content

    def overwrite(self, path: Path) -> bool:
        """Put stars over the texts in a file, where they lie, and return whether there were any.

        Who has the file open to append to it goes on.
        """
        before = path.read_bytes()
        after = self.overwritten(before)
        if after == before:
            return False
        with path.open("r+b") as stream:
            stream.write(after)
        return True


def contents(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield the bytes of a file, and of what is packed in it, whatever its name."""
    yield content
    if depth == _DEEPEST:
        return
    for inner in _inner(content):
        yield from contents(inner, depth + 1)


def _inner(content: bytes) -> Iterator[bytes]:
    unpack = next((f for magic, f in _PACKED.items() if content.startswith(magic)), None)
    try:
        if unpack is not None:
            yield unpack(content)
        elif content.startswith(b"PAR1"):
            yield from _parquet_rows(content)
        elif content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from (archive.read(name) for name in archive.namelist())
        elif content[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                files = (archive.extractfile(item) for item in archive)
                yield from (file.read() for file in files if file is not None)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, ValueError):
        return  # it only began like one, and its bytes were looked at


def _parquet_rows(content: bytes) -> Iterator[bytes]:
    from pyarrow import parquet

    with parquet.ParquetFile(io.BytesIO(content)) as file:
        for batch in file.iter_batches():
            rows = json.dumps(batch.to_pylist(), ensure_ascii=False, default=str)
            yield rows.encode(errors="replace")


def _written(text: str) -> Iterator[bytes]:
    """Yield a text as it is written: plain, in JSON, in JSON within JSON, in HTML, in Markdown."""
    forms = {text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)}
    for form in forms | {plain_markdown(form) for form in forms}:
        for ascii_ in (True, False):
            once = json.dumps(form, ensure_ascii=ascii_)[1:-1]
            yield once.encode(errors="replace")
            for outer in (True, False):
                yield json.dumps(once, ensure_ascii=outer)[1:-1].encode(errors="replace")
        for quote in (True, False):
            yield html.escape(form, quote=quote).encode(errors="replace")
        yield (
            html.escape(form)
            .replace("&#x27;", "&#39;")
            .replace("&quot;", "&#34;")
            .encode(errors="replace")
        )  # as Jinja writes them
        yield form.encode(errors="replace")


def _longest_first(forms: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(set(forms), key=lambda form: (-len(form), form)))


def wipe_sqlite(path: Path, traces: Traces, spared: Mapping[str, str]) -> int:
    """Put stars over the texts in an sqlite database, and return in how many values.

    What was deleted or overwritten leaves the file, its free pages and its log. Keys and names
    stay, and so do the rows of the table `params`, say, for which `spared["params"]` holds in SQL.

    Raises:
        ConfigError: another process holds it.
    """
    try:
        with closing(
            sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.create_function("_held", 1, lambda value: _held(value, traces))
            connection.create_function("_starred", 1, lambda value: _starred(value, traces))
            connection.execute("BEGIN IMMEDIATE")
            changed = sum(
                _wipe_table(connection, name, spared.get(name, "FALSE"))
                for name in _tables(connection)
            )
            connection.execute("COMMIT")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        raise ConfigError(
            f"{path} can't be wiped: {error}; what was deleted from it may still lie in its bytes",
            "`nightloom down` ends the servers that hold it; then say the same again",
        ) from error
    return changed


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    return [str(name) for (name,) in rows.fetchall()]


def _wipe_table(connection: sqlite3.Connection, table: str, spared: str) -> int:
    columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
    changed = 0
    for _, name, kind, _, _, key in columns:
        can_hold = not kind or any(word in str(kind).upper() for word in _TEXT_TYPES)
        if can_hold and not key and name not in _NAMES:
            done = connection.execute(
                f'UPDATE "{table}" SET "{name}" = _starred("{name}") '
                f'WHERE _held("{name}") AND NOT ({spared})'
            )
            changed += done.rowcount
    return changed


def _held(value: object, traces: Traces) -> bool:
    return traces.overwritten(_as_bytes(value)) != _as_bytes(value)


def _starred(value: object, traces: Traces) -> str | bytes:
    found = traces.overwritten(_as_bytes(value))
    return found if isinstance(value, bytes) else found.decode(errors="replace")


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode(errors="replace") if isinstance(value, str) else b""


def wipe_postgresql(url: str, traces: Traces, spared: Mapping[str, str]) -> int:
    """Put stars over the texts in a PostgreSQL database, and return in how many values.

    What is `spared` is as for sqlite. Each table that can hold text is written anew (VACUUM FULL),
    so that old bytes go, also those of rows that were deleted before.

    Raises:
        ConfigError: the database refuses; an administrator must do it.
    """
    import sqlalchemy
    from sqlalchemy import exc

    engine = sqlalchemy.create_engine(with_psycopg(url), poolclass=sqlalchemy.NullPool)
    try:
        with engine.begin() as connection:
            changed = {
                table: _wipe_columns(connection, table, columns, traces, spared)
                for table, columns in _text_columns(connection).items()
            }
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in changed:
                connection.exec_driver_sql(f'VACUUM FULL "{table}"')
    except exc.SQLAlchemyError as error:
        raise ConfigError(
            f"the database can't be wiped: {str(getattr(error, 'orig', error)).strip()[:300]}",
            "let its administrator run VACUUM FULL on MLflow's tables, then say the same again",
        ) from None
    return sum(changed.values())


def _text_columns(connection: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the columns that can hold text, with their types, by table."""
    rows = connection.exec_driver_sql(
        "SELECT table_name, column_name, data_type FROM information_schema.columns "
        "JOIN information_schema.tables USING (table_schema, table_name) "
        "WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' AND data_type IN "
        "('text', 'character varying', 'json', 'jsonb')"
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for table, column, kind in rows:
        if column not in _NAMES:
            found.setdefault(table, []).append((column, kind))
    return found


def _wipe_columns(
    connection: Any,
    table: str,
    columns: Sequence[tuple[str, str]],
    traces: Traces,
    spared: Mapping[str, str],
) -> int:
    import sqlalchemy

    changed, kept = 0, spared.get(table, "FALSE")
    for column, kind in columns:
        for form in traces.forms:
            statement = sqlalchemy.text(
                f'UPDATE "{table}" SET "{column}" = CAST(replace(CAST("{column}" AS text), '
                f':found, :stars) AS {kind}) WHERE strpos(CAST("{column}" AS text), :found) > 0 '
                f"AND NOT ({kept})"
            )
            text = form.decode(errors="replace")
            done = connection.execute(statement, {"found": text, "stars": "*" * len(text)})
            changed += done.rowcount
    return changed
