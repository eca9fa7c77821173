"""The URL of a database: read from where it may stand, and shown without its secrets."""

import os
import re
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy import URL, exc

from tasks.stage.errors import ConfigError

# SQLAlchemy 2.0 reads a bare postgresql:// as psycopg2; psycopg 3 is what is installed.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
# Options of drivers that carry secrets: password, pwd, sslpassword, odbc_connect, token, key.
_SECRET = re.compile(r"pass|pwd|secret|token|key|connect$", re.IGNORECASE)
_PASSWORD = re.compile(r"(?:pwd|password)\s*=\s*([^;]+)", re.IGNORECASE)


def read_url(url: str | None, variable: str | None) -> URL:
    """The URL that params give, or the environment variable that they name.

    Raises:
        ConfigError: the variable is not set, the URL is none, or holds a password in params.
    """
    text = url if variable is None else os.environ.get(variable)
    if not text:
        raise ConfigError(
            f"the environment variable {variable} is not set; ingestion.sql.url_variable says "
            "that it holds the database's URL",
            f"export {variable}=postgresql://USER:PASSWORD@HOST/DATABASE where nights run",
        )
    try:
        parsed = sqlalchemy.make_url(text)
    except (exc.ArgumentError, ValueError):
        place = "ingestion.sql.url" if variable is None else f"the environment variable {variable}"
        raise ConfigError(
            f"{place} holds no URL of a database; expected DRIVER://USER:PASSWORD@HOST/DATABASE",
            "mend it; special characters in a password are written as %XX (%40 for @)",
        ) from None
    if variable is None and _secrets(parsed):
        raise ConfigError(
            "ingestion.sql.url holds a password; params are kept in MLflow and in git",
            "put the URL into an environment variable, name it as ingestion.sql.url_variable, "
            "and change that password: it may be kept already",
        )
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


def shown_url(url: URL) -> str:
    """The database's URL without user, password and the options that may be secrets."""
    options = {name: value for name, value in url.query.items() if not _SECRET.search(name)}
    bare = url.set(username=None, password=None).set(query=options)
    return bare.render_as_string(hide_password=True)


def masked(text: str, url: URL) -> str:
    """The text with stars for every secret of the URL that it repeats."""
    for secret in _secrets(url):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, "***")
    return text


def _secrets(url: URL) -> list[str]:
    """What of a URL must never be shown, longest first."""
    named = [value for name, value in url.query.items() if _SECRET.search(name)]
    options = [text for value in named for text in _texts(value)]
    within = [found for text in options for found in _PASSWORD.findall(text)]
    found = {str(text) for text in (url.password, *options, *within) if text}
    return sorted(found, key=len, reverse=True)


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
