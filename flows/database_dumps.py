"""PostgreSQL stores saved and loaded by its own programs; what others keep is told."""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy

from flows.environment import find_stores
from tasks.services.processes import supervised
from tasks.stage.errors import ConfigError

_PREFECT = "PREFECT_API_DATABASE_CONNECTION_URL"


def dump_databases(checkout: Path, folder: Path) -> list[str]:
    """Write each PostgreSQL store into a folder; return what others must save.

    Raises:
        ConfigError: `pg_dump` is missing, or it failed.
    """
    left = []
    for name, url in _databases(checkout).items():
        if _is_postgresql(url):
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{name}.dump"
            _call("pg_dump", url, "--format=custom", f"--file={target}")
        elif url:
            left.append(f"{name} at {shown(url)} is kept by others, who must save it")
    stores = find_stores(checkout)
    if stores.artifacts is None:
        left.append(f"the artifacts of {shown(stores.tracking_uri)} lie elsewhere: save them there")
    return left


def load_databases(checkout: Path, folder: Path) -> None:
    """Load what `dump_databases` wrote into the stores that the environment names.

    Raises:
        ConfigError: the environment names none, `pg_restore` is missing, or it failed.
    """
    urls = _databases(checkout)
    for dump in sorted(folder.glob("*.dump")):
        url = urls[dump.stem]
        if not _is_postgresql(url):
            raise ConfigError(
                f"the backup holds {dump.stem}'s PostgreSQL database; expected the URL of an empty "
                f"one in {_VARIABLES[dump.stem]}",
                "make one with `createdb`, name it there, and restore again",
            )
        _call("pg_restore", url, "--no-owner", "--exit-on-error", str(dump))


_VARIABLES = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": _PREFECT}


def _databases(checkout: Path) -> dict[str, str]:
    """Return the stores that the environment names in place of a checkout's own; empty if none."""
    return {name: os.environ.get(variable, "") for name, variable in _VARIABLES.items()}


def shown(url: str) -> str:
    """Return an address without its password."""
    if "@" not in url:
        return url
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url.rpartition("@")[2]


def _is_postgresql(url: str) -> bool:
    return urlsplit(url).scheme.partition("+")[0] in ("postgres", "postgresql")


def _call(program: str, url: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs; the password goes by the environment alone.

    Raises:
        ConfigError: it is missing, or it failed.
    """
    found = shutil.which(program)
    if found is None:
        raise ConfigError(
            f"{program} is not installed; expected PostgreSQL's own program, which alone saves and "
            "loads its databases whole",
            "install PostgreSQL's client programs (postgresql-client)",
        )
    place = sqlalchemy.make_url(url)
    # Built anew: `set(password=None)` would leave the password there.
    plain = sqlalchemy.URL.create(
        "postgresql", place.username, None, place.host, place.port, place.database, place.query
    ).render_as_string()
    environment = os.environ | ({"PGPASSWORD": place.password} if place.password else {})
    done = subprocess.run(
        supervised([found, f"--dbname={plain}", *arguments]),
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise ConfigError(
            f"{program} failed for {shown(url)}: {done.stderr.strip()[-500:]}",
            "mend what it names, then say it again",
        )
