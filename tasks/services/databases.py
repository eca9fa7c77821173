"""Addresses of databases: PostgreSQL's name the drivers that are installed.

SQLAlchemy 2.0 reads a bare `postgresql://` as psycopg2, which is not installed, and Prefect's
server needs a driver that waits for nothing.
"""

import re

# The URL of Prefect's server, by each of the names that Prefect reads.
PREFECT_DATABASES = (
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
)

MLFLOW_DATABASES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")

_DATABASE = re.compile(r"(sqlite|postgres(ql)?|mysql|mssql)(\+\w+)?:")

_POSTGRESQL = re.compile(r"^postgres(ql)?(\+(psycopg2?|asyncpg))?://")

# asyncpg calls `ssl` what every other driver calls `sslmode`.
_SSL, _SSLMODE = re.compile(r"([?&])ssl="), re.compile(r"([?&])sslmode=")


def is_database(uri: str) -> bool:
    """Return whether MLflow opens what lies at an address as a database, by SQLAlchemy."""
    return _DATABASE.match(uri) is not None


def with_psycopg(url: str) -> str:
    """Return a URL whose PostgreSQL is reached by psycopg 3; any other as it is."""
    return _with_driver(url, "psycopg", _SSL, "sslmode")


def with_asyncpg(url: str) -> str:
    """Return a URL whose PostgreSQL is reached by asyncpg; any other as it is."""
    return _with_driver(url, "asyncpg", _SSLMODE, "ssl")


def _with_driver(url: str, driver: str, other: re.Pattern[str], option: str) -> str:
    if _POSTGRESQL.match(url) is None:
        return url
    return other.sub(rf"\1{option}=", _POSTGRESQL.sub(f"postgresql+{driver}://", url))
