"""The address of the user's MLflow store, without the password that may stand in it.

MLflow writes the address into links, and it stands in messages, logs and other processes'
environments. So the password goes where clients look for it all the same.
"""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from flows.credentials import private_folder

STORE = "MLFLOW_TRACKING_URI"
STORE_USER, STORE_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

_POSTGRESQL = re.compile(r"postgres(ql)?(\+psycopg2?)?$")


def keep_password(checkout: Path) -> None:
    """Take the password out of the tracking URI of this process, and put it where it is read.

    That of a server goes into MLflow's own variables. That of PostgreSQL goes into a file that the
    URI names (https://www.postgresql.org/docs/current/libpq-pgpass.html). Other databases' drivers
    read it from the URI alone, where it stays.

    Raises:
        ConfigError: the checkout's private folder is open to others.
    """
    uri = os.environ.get(STORE, "")
    scheme, _, _ = uri.partition("://")
    if scheme in ("http", "https"):
        parts = urlsplit(uri)
        user, at, host = parts.netloc.rpartition("@")
        if at:
            name, _, password = user.partition(":")
            os.environ[STORE] = parts._replace(netloc=host).geturl()
            os.environ |= {STORE_USER: unquote(name), STORE_PASSWORD: unquote(password)}
    elif _POSTGRESQL.fullmatch(scheme):
        os.environ[STORE] = _with_passfile(checkout, uri)


def _with_passfile(checkout: Path, uri: str) -> str:
    """Return PostgreSQL's URI with the name of a file in place of its password."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = unquote(password) if at and colon else query.get("password")
    if known is None:
        return uri
    path = _passfile(checkout, known)
    query = {key: value for key, value in query.items() if key != "password"}
    changed = parts._replace(
        netloc=f"{name}{at}{host}" if at else host,
        query=urlencode({**query, "passfile": str(path)}),
    )
    return changed.geturl()


def _passfile(checkout: Path, password: str) -> Path:
    """Return a file of mode 0600 that holds a password for whatever the URI names."""
    digest = hashlib.sha256(password.encode()).hexdigest()[:16]
    path = private_folder(checkout) / f"postgresql-{digest}"
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"*:*:*:*:{escaped}\n")
    return path
