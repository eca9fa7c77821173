"""The settings under which Prefect, DVC and MLflow run here, unless the user has set others."""

import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit

from flows.credentials import mlflow_secret_file, private_folder, secret_file
from flows.dvc_settings import keep_site_cache
from flows.mlflow_store import own_store
from flows.servers import Services, mlflow_secret, server_secret
from flows.store_address import STORE, STORE_PASSWORD, STORE_USER, keep_password
from flows.workspace import STATE, find_checkout
from tasks.services.databases import (
    MLFLOW_DATABASES,
    PREFECT_DATABASES,
    is_database,
    with_asyncpg,
    with_psycopg,
)
from tasks.services.loopback import proxy_exemptions
from tasks.services.processes import TELEMETRY_OFF
from tasks.services.stores import ARTIFACT_ROOT, Stores, local_path
from tasks.stage.errors import ConfigError

_DEFAULTS = TELEMETRY_OFF | {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Ours are asked again by `patience`, which tells so and counts the time.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # A first start on a slow machine takes longer than Prefect's 20 seconds.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
}
_SECRETS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")
# Stores, logs and data are for their owner alone.
_UMASK = 0o077


def open_checkout(root: Path) -> Path:
    """Return the checkout at or above a folder, with this process set up for it.

    Raises:
        ConfigError: there is none, or its secrets are open to others.
    """
    checkout = find_checkout(root)
    set_environment(checkout)
    return checkout


def set_environment(checkout: Path) -> None:
    """Set what the user has not set; call it before anything imports Prefect.

    What this process and its children write from here on can be read by this user alone.

    Raises:
        ConfigError: the checkout's secrets are open to others.
    """
    os.umask(_UMASK)
    if not (checkout / STATE).exists():
        from flows.permissions import close_cloned  # deferred: needed once a checkout

        close_cloned(checkout)
    os.environ.update(_missing_settings(checkout))
    keep_password(checkout)
    _set_store_credentials(checkout)
    keep_site_cache(checkout, site_cache(checkout))


def shell_lines(checkout: Path) -> list[str]:
    """Return the lines that give a shell the settings of `set_environment`.

    A secret is read from its file when a line is run, so that it stands on no screen and in no
    process's arguments.
    """
    keep_site_cache(checkout, site_cache(checkout))
    given = next((name for name in _SECRETS if os.environ.get(name)), None)
    secret = f"${given}" if given else f"$(cat {shlex.quote(str(secret_file(checkout)))})"
    hidden = dict.fromkeys(_SECRETS, secret) | {
        name: f"{url.partition('://')[0]}://${{{name}#*://}}" for name, url in _databases().items()
    }
    lines = [
        f"export {name}=" + (f'"{hidden[name]}"' if name in hidden else shlex.quote(value))
        for name, value in _missing_settings(checkout).items()
    ]
    services = Services.read(checkout)
    if services is None or not _uses_own_store(services):
        return lines
    password = f"$(cut -d: -f2 {shlex.quote(str(mlflow_secret_file(checkout)))})"
    return [
        *lines,
        f"export {STORE}={services.mlflow}",
        f"export {STORE_USER}={mlflow_secret(checkout).partition(':')[0]}",
        f'export {STORE_PASSWORD}="{password}"',
    ]


def _missing_settings(checkout: Path) -> dict[str, str]:
    """Return the variables that the user has not set, and loopback beside the user's `no_proxy`."""
    private_folder(checkout)  # which makes the state's folder, closed to others
    home = checkout / STATE / "prefect"
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of its path alone
    wanted = _DEFAULTS | {
        # DVC unpickles what lies there, and by default everybody may write there (CVE-2025-69872).
        "DVC_SITE_CACHE_DIR": str(site_cache(checkout)),
        "PREFECT_HOME": str(home),
    }
    if not os.environ.get("PREFECT_API_URL"):
        # Also of the server that Prefect starts by itself where none is up.
        wanted |= dict.fromkeys(_SECRETS, server_secret(checkout))
        services = Services.read(checkout)
        if services is not None:
            wanted["PREFECT_API_URL"] = services.prefect_api
    missing = {name: value for name, value in wanted.items() if not os.environ.get(name)}
    return missing | _databases() | proxy_exemptions(os.environ)


def _databases() -> dict[str, str]:
    """Return the variables whose database has a driver's name to be added, as it must be."""
    given = {
        **{name: with_psycopg(os.environ.get(name, "")) for name in MLFLOW_DATABASES},
        **{name: with_asyncpg(os.environ.get(name, "")) for name in PREFECT_DATABASES},
    }
    return {name: url for name, url in given.items() if url != os.environ.get(name, "")}


def _uses_own_store(services: Services | None) -> bool:
    """Return whether runs go to the checkout's own MLflow store, by file or by its server."""
    given = os.environ.get(STORE)
    return not given or (services is not None and given == services.mlflow)


def _set_store_credentials(checkout: Path) -> None:
    """Let MLflow's clients here say who they are to the checkout's own server, and to no other.

    The server may come up later, so they get the password before.
    """
    user, _, password = mlflow_secret(checkout).partition(":")
    if _uses_own_store(Services.read(checkout)):
        os.environ |= {STORE_USER: user, STORE_PASSWORD: password}
    elif os.environ.get(STORE_PASSWORD) == password:  # of a shell that took `nightloom env` over
        del os.environ[STORE_PASSWORD]
        os.environ.pop(STORE_USER, None)


def site_cache(checkout: Path) -> Path:
    """Return where DVC keeps what it unpickles, in a checkout."""
    return private_folder(checkout) / "dvc"


def find_stores(checkout: Path) -> Stores:
    """Return the MLflow store: the user's, else that of the servers of `up`, else sqlite.

    Raises:
        ConfigError: the checkout was copied or moved, and its own store can't follow; or the
            user's, or its place for artifacts, counts from the folder that a command is run in.
    """
    services = Services.read(checkout)
    if not _uses_own_store(services):
        return _others_store(with_psycopg(os.environ[STORE]))
    own = own_store(checkout)
    return Stores(own.uri if services is None else services.mlflow, own.artifacts)


def _others_store(uri: str) -> Stores:
    """Return the store that the user names: a server knows where its artifacts go, a database not.

    Raises:
        ConfigError: its address or the place for artifacts is relative.
    """
    _check_absolute(uri)
    root = os.environ.get(ARTIFACT_ROOT)
    if not root or not is_database(uri):
        return Stores(uri, None)
    folder = local_path(root)
    if (folder is None and "://" not in root) or (folder and not folder.is_absolute()):
        raise ConfigError(
            f"{ARTIFACT_ROOT} is {root}; expected a bucket (s3://BUCKET/FOLDER) or an absolute "
            "folder, because a relative one counts from the folder that a command runs in",
            "give it whole, and to every machine alike",
        )
    return Stores(uri, folder, None if folder else root)


# What MLflow takes for an address though it is one word.
_WORDS = {"databricks", "databricks-uc", "uc"}


def _check_absolute(uri: str) -> None:
    """Check that every command here finds one and the same store by an address.

    Raises:
        ConfigError: it counts from the folder that a command is run in.
    """
    address = urlsplit(uri)
    if address.scheme == "sqlite":
        absolute = uri.partition("://")[2].startswith("//")
    elif address.scheme in ("", "file") and uri not in _WORDS:
        absolute = address.path.startswith("/")
    else:
        absolute = True
    if not absolute:
        raise ConfigError(
            f"{STORE} is {uri}; expected an absolute path in it, because MLflow "
            "counts this one from the folder of each process, and stages have folders of their own",
            "write sqlite:////ABSOLUTE/PATH.db or the address of a server, or unset it to use the "
            "store in .nightloom/",
        )
