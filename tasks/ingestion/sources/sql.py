"""Rows of queries to any database that SQLAlchemy knows, streamed, and only what is new."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy import URL, Connection, Executable, exc

from tasks.ingestion.sources.source import Found, Kind, Mark
from tasks.records.columns import Columns
from tasks.records.readers import table_line
from tasks.services.databases import with_psycopg
from tasks.stage.errors import ConfigError, DataError

# Options of drivers that carry secrets: password, pwd, sslpassword, odbc_connect, token, key.
_SECRET = re.compile(r"pass|pwd|secret|token|key|connect$", re.IGNORECASE)

_PASSWORD = re.compile(r"(?:pwd|password)\s*=\s*([^;]+)", re.IGNORECASE)


def read_url(url: str | None, variable: str | None) -> URL:
    """Return the URL that params give, or that the environment variable they name holds.

    Raises:
        ConfigError: the variable is not set, the URL is none, or holds a password in params.
    """
    text = url if variable is None else os.environ.get(variable)
    if not text:
        raise ConfigError(
            f"the environment variable {variable} is not set; sql.url_variable says "
            "that it holds the database's URL",
            f"export {variable}=postgresql://USER:PASSWORD@HOST/DATABASE where nights run",
        )
    try:
        parsed = sqlalchemy.make_url(with_psycopg(text))
    except (exc.ArgumentError, ValueError):
        place = "sql.url" if variable is None else f"the environment variable {variable}"
        raise ConfigError(
            f"{place} holds no URL of a database; expected DRIVER://USER:PASSWORD@HOST/DATABASE",
            "mend it; special characters in a password are written as %XX (%40 for @)",
        ) from None
    if variable is None and _secrets(parsed):
        raise ConfigError(
            "sql.url holds a password; params are kept in MLflow and in git",
            "put the URL into an environment variable, name it as sql.url_variable, "
            "and change that password: it may be kept already",
        )
    return parsed


def shown_url(url: URL) -> str:
    """Return the database's URL, stars for its password, without options that may be secrets."""
    options = {name: value for name, value in url.query.items() if not _SECRET.search(name)}
    return url.set(query=options).render_as_string(hide_password=True)


def masked(text: str, url: URL) -> str:
    """Return the text with stars for every secret of the URL that it repeats."""
    for secret in _secrets(url):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***")
    return text


def _secrets(url: URL) -> list[str]:
    """Return what of a URL must never be shown, longest first."""
    named = [value for name, value in url.query.items() if _SECRET.search(name)]
    options = [text for value in named for text in _texts(value)]
    within = [found for text in options for found in _PASSWORD.findall(text)]
    found = {str(text) for text in (url.password, *options, *within) if text}
    return sorted(found, key=len, reverse=True)


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


_ROWS_AT_ONCE = 1000

_FROM_TEXT: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "Decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
}


@dataclass(frozen=True)
class Query:
    """A query; `since` names the column of its result that only grows, None where none does."""

    text: str
    since: str | None


class SqlSource:
    """A query for records and perhaps one for documents.

    `earlier` are the marks of the intakes so far: rows are asked for from the mark on, the mark's
    own value included, since rows that share it may have come later. The rest of them is known.

    Raises:
        ConfigError: the URL can't be read.
        DataError: an sqlite file does not exist.
    """

    def __init__(
        self,
        url: URL,
        queries: Mapping[Kind, Query],
        columns: Mapping[Kind, Columns],
        longest: int,
        earlier: Sequence[Mapping[Kind, Mark]],
    ) -> None:
        self._url = url
        self._queries = queries
        self._columns = columns
        self._longest = longest
        self._marks: dict[Kind, Mark] = {}
        self._begin: dict[Kind, Any] = {}
        self.origin = (shown_url(url),)
        for kind, query in queries.items():
            digest = self._digest(query)
            fitting = [marks[kind] for marks in earlier if kind in marks]
            fitting = [mark for mark in fitting if mark.query == digest]
            if query.since is not None and fitting:
                self._marks[kind] = fitting[-1]
                self._begin[kind] = _FROM_TEXT[fitting[-1].type](fitting[-1].value)
        self.increments = bool(self._begin)
        if url.get_backend_name() == "sqlite" and not _exists(url.database):
            raise DataError(
                f"no sqlite file {url.database}; expected a database, and opening it would make "
                "an empty one",
                "mend sql.url; a relative path counts from the working directory",
            )

    def read(self, kind: Kind) -> Iterator[Found]:
        """Yield the rows of the query as lines, a batch in memory at a time.

        Raises:
            ConfigError: the query or the connection fails, or the `since` column is missing.
            DataError: the `since` column's values can't be compared.
        """
        query = self._queries.get(kind)
        if query is None:
            return
        file, greatest = f"sql.{kind}", self._begin.get(kind)
        with self._connected(kind) as connection:
            result = connection.execute(_statement(query, greatest))
            names = _names(kind, query, list(result.keys()) if result.returns_rows else [])
            place = None if query.since is None else names.index(query.since)
            for number, row in enumerate(result, start=1):
                if place is not None:
                    greatest = _greater(kind, query, greatest, row[place])
                cells = dict(zip(names, row, strict=True))
                yield Found(file, table_line(number, cells, self._columns[kind], self._longest))
        if greatest is not None:
            self._marks[kind] = self._mark(query, greatest)

    def updated(self) -> str | None:
        """Return the greatest value of the `since` columns, where these are times."""
        values = [_FROM_TEXT[mark.type](mark.value) for mark in self._marks.values()]
        times = [moment for value in values if (moment := _as_time(value)) is not None]
        return max(times).isoformat(timespec="seconds") if times else None

    def marks(self) -> dict[Kind, Mark]:
        """Return how far each query was read."""
        return dict(self._marks)

    @contextmanager
    def _connected(self, kind: Kind) -> Iterator[Connection]:
        """Open a connection that streams results and can't write.

        Raises:
            ConfigError: with the database's own words, no secret among them.
        """
        try:
            engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.NullPool)
            with engine.connect() as connection:
                options = {"yield_per": _ROWS_AT_ONCE, "postgresql_readonly": True}
                if self._url.get_backend_name() == "sqlite":
                    connection.exec_driver_sql("PRAGMA query_only = ON")
                yield connection.execution_options(**options)
        except (exc.SQLAlchemyError, ImportError) as error:
            _refuse(self._url, kind, error)

    def _digest(self, query: Query) -> str:
        parts = (shown_url(self._url), query.text, str(query.since))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _mark(self, query: Query, value: Any) -> Mark:
        text = value.isoformat() if isinstance(value, date) else str(value)
        return Mark(self._digest(query), type(value).__name__, text)


def _exists(database: str | None) -> bool:
    in_memory = database in (None, "", ":memory:")
    return in_memory or str(database).startswith("file:") or Path(str(database)).is_file()


def _statement(query: Query, begin: Any) -> Executable:
    """Return the query, or the part of its result from `begin` on; rows without a value stay in."""
    # No colon names a parameter: the query is sent as it is written.
    text = sqlalchemy.text(query.text.strip().rstrip(";").replace(":", r"\:") + "\n")
    if query.since is None or begin is None:
        return text
    offered = text.columns(sqlalchemy.column(query.since)).subquery("offered")
    column = offered.c[query.since]
    bound = sqlalchemy.bindparam("since", begin, type_=_bound_type(begin))
    return (
        sqlalchemy.select(sqlalchemy.literal_column("*"))
        .select_from(offered)
        .where(sqlalchemy.or_(column >= bound, column.is_(None)))
    )


def _bound_type(value: Any) -> sqlalchemy.types.TypeEngine[Any]:
    match value:
        case datetime():
            return sqlalchemy.DateTime(timezone=value.tzinfo is not None)
        case date():
            return sqlalchemy.Date()
        case int():
            return sqlalchemy.BigInteger()
        case Decimal():
            return sqlalchemy.Numeric()
        case float():
            return sqlalchemy.Double()
    return sqlalchemy.String()


def _names(kind: Kind, query: Query, names: Sequence[str]) -> Sequence[str]:
    """Return the columns of the result, each once.

    Raises:
        ConfigError: there is none, one comes twice, or the `since` column is not among them.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        found = f"gives column {', '.join(twice)} twice" if twice else "gives no rows"
        raise ConfigError(
            f"the query sql.{kind}.query {found}; expected a SELECT with each column once",
            "name every column, e.g. SELECT a.id AS id, b.text AS text",
        )
    if query.since is not None and query.since not in names:
        raise ConfigError(
            f"sql.{kind}.since is {query.since}; the query gives {', '.join(names)}",
            "select that column too, or name one of these",
        )
    return names


def _greater(kind: Kind, query: Query, greatest: Any, value: Any) -> Any:
    """Return the greater of two values of the `since` column; None is less than all.

    Raises:
        DataError: they are of two types, or of one that can't be kept.
    """
    if value is None:
        return greatest
    if type(value).__name__ not in _FROM_TEXT:
        raise DataError(
            f"sql.{kind}.since: column {query.since} holds a {type(value).__name__}; "
            f"expected one of {', '.join(_FROM_TEXT)}, to know where the next night goes on",
            "cast it in the query, or set since to null: then every night reads all rows",
        )
    try:
        return value if greatest is None or value > greatest else greatest
    except TypeError:
        raise DataError(
            f"sql.{kind}.since: column {query.since} holds both "
            f"{type(greatest).__name__} and {type(value).__name__}, which have no order",
            "cast it in the query to one type",
        ) from None


def _as_time(value: Any) -> datetime | None:
    """Return a time of the `since` column in UTC, else None; one without a zone is taken as UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.min)
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _refuse(url: URL, kind: Kind, error: Exception) -> NoReturn:
    """Raise what went wrong in the database's own words, without a secret."""
    said = masked(str(getattr(error, "orig", None) or error).strip(), url)
    raise ConfigError(
        f"reading sql.{kind} from {shown_url(url)} failed: {said}",
        "mend the query or the URL, or see that the database answers; a driver that is missing "
        "is installed with pip, e.g. `pip install pymysql` for mysql+pymysql://",
    ) from None
