"""MLflow's stores: where they are, and clients that repeat a call while a store is away."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_before_delay,
    wait_exponential,
)

from tasks.services.databases import is_database
from tasks.stage.errors import ConfigError, NightloomError, without_password

EXPERIMENT = "nightloom"

LEDGER = "nightloom-ledger"

# As `mlflow server` calls it: where a new experiment in a database keeps its files.
ARTIFACT_ROOT = "MLFLOW_DEFAULT_ARTIFACT_ROOT"

SERVED = "nightloom-served"  # what `nightloom serve --log` keeps


@dataclass(frozen=True)
class Stores:
    """An MLflow tracking URI, and where its experiments keep artifacts.

    `artifacts` is a folder of this machine, `bucket` the address of another place; both are None
    where somebody else's server decides. The store of a checkout names one folder, whether it is
    opened embedded or through a server on the same machine.
    """

    tracking_uri: str
    artifacts: Path | None
    bucket: str | None = None

    @property
    def location(self) -> str | None:
        """Return the address that an experiment is made with, None where a server decides."""
        return self.bucket if self.artifacts is None else self.artifacts.absolute().as_uri()


@dataclass(frozen=True)
class RunRef:
    """One MLflow run."""

    experiment_id: str
    run_id: str


def local_path(location: str) -> Path | None:
    """Return the path that MLflow reads and writes for an artifact location.

    None where that is at a server, in a bucket, or counts from the folder that a command is run in.
    """
    if not location.startswith(("file:", "/")):
        return None
    path = urlsplit(location).path if location.startswith("file:") else location
    return Path(url2pathname(path))  # MLflow decodes the escapes of plain paths too


def find_experiment(client: Any, name: str) -> Any:
    """Return an experiment of MLflow's, None if it was never made. `client` is MLflow's.

    Raises:
        ConfigError: somebody deleted it. Its runs can't be found then: a night could not begin one,
            and the ledger would look empty.
    """
    found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "deleted":
        return found
    raise ConfigError(
        f"the experiment {name!r} ({found.experiment_id}) of MLflow at {client.tracking_uri} was "
        "deleted, with all that lies in it; expected it there, since nights and versions need it",
        f"bring it back whole with `mlflow experiments restore --experiment-id "
        f"{found.experiment_id}`, with that address as MLFLOW_TRACKING_URI; then run again",
    )


def open_experiment(client: Any, name: str, location: str | None) -> str:
    """Return the id of an experiment, made if it is missing, with its artifacts at a location.

    Another process may make it meanwhile; or we did, and the answer was lost. `client` is MLflow's.

    Raises:
        ConfigError: it was deleted, or it must be made in a database and no location is given.
    """
    found = find_experiment(client, name)
    if found is None:
        if location is None and is_database(client.tracking_uri):
            raise _without_root()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
        found = find_experiment(client, name)
    return str(found.experiment_id)


RETRY_SECONDS = 90.0

_FIRST_WAIT = 0.25

_LONGEST_WAIT = 8.0

# What MLflow says of a store that is away: a locked or unreachable database, a dead server.
_TRANSIENT = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"}

# Made twice, these make two of a kind: call them by `made_once`.
NOT_REPEATABLE = frozenset(
    {"create_model_version", "create_prompt", "create_prompt_version", "create_run"}
)

Client = TypeVar("Client")

Made = TypeVar("Made")

_RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

_CLIENT_RETRIES_OFF = threading.Lock()

_logger = logging.getLogger(__name__)


def is_transient(error: BaseException) -> bool:
    """Return whether an error of MLflow's may be gone in a while, so that a call is worth
    repeating.
    """
    if _is_broken(error) or _is_outdated(error):
        return False
    # What SQLAlchemy says of the same before MLflow has opened its store.
    unopened = type(error).__name__ == "OperationalError"
    return unopened or getattr(error, "error_code", None) in _TRANSIENT


def call_with_retries(
    call: Callable[[], Any], where: str, *, seconds: float | None = None
) -> Any:  # the type is the call's
    """Return what a call returns, made again while the store is away.

    Raises:
        ConfigError: it was away for longer than `seconds`, which are RETRY_SECONDS by default.
    """
    bound, where = RETRY_SECONDS if seconds is None else seconds, without_password(where)

    def tell(state: RetryCallState) -> None:
        _logger.warning("MLflow at %s is away, asking again in %.1f s", where, state.upcoming_sleep)

    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
        stop=stop_before_delay(bound),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        if _is_outdated(error):
            raise _outdated(where) from error
        if _is_broken(error):
            raise _broken(where, error) from error
        if is_transient(error):
            raise _away(where, bound, error) from error
        raise


def made_once(find: Callable[[], Made | None], make: Callable[[], Made], where: str) -> Made:
    """Return what `find` finds, else what `make` makes: looked for each time before it is made.

    The answer to a call that succeeded may be lost. MLflow's own client then sends the request
    again without looking (its sessions retry POST too), which would make two; so it may not here.

    Raises:
        ConfigError: the store was away for too long.
    """

    def attempt() -> Made:
        found = find()
        if found is not None:
            return found
        with _without_client_retries():
            return make()

    return cast(Made, call_with_retries(attempt, where))


@contextmanager
def _without_client_retries() -> Iterator[None]:
    """Let MLflow's client ask a server but once.

    That holds for the calls of other threads too, which are patient or may fail, and for a child
    that one of them would start meanwhile.
    """
    with _CLIENT_RETRIES_OFF:
        before = os.environ.get(_RETRIES_VARIABLE)
        os.environ[_RETRIES_VARIABLE] = "0"
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(_RETRIES_VARIABLE, None)
            else:
                os.environ[_RETRIES_VARIABLE] = before


@contextmanager
def missing_is_fine() -> Iterator[None]:
    """Let a block delete what is gone already: a lost answer has its request made again."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
            raise


class RetryingClient:
    """A client of a store whose calls are made again while the store is away.

    MLflow's own client asks a server again for some minutes, and a database not at all.
    """

    def __init__(self, client: Any, where: str, seconds: float | None = None) -> None:
        self._client = client
        self._where = where
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or name in NOT_REPEATABLE:
            return found

        @wraps(found)
        def call(*arguments: Any, **named: Any) -> Any:
            return call_with_retries(
                lambda: found(*arguments, **named), self._where, seconds=self._seconds
            )

        return call


def retrying_client(
    client: Callable[[str], Client], where: str, *, seconds: float | None = None
) -> Client:
    """Open a client of the store at an address, once the store is there.

    Each call waits `seconds` for a store that is away, RETRY_SECONDS by default.

    Raises:
        ConfigError: it was away for too long, or it is no store that can be opened.
    """
    try:
        opened = call_with_retries(lambda: client(where), where, seconds=seconds)
    except NightloomError:
        raise
    except Exception as error:  # of an address or a driver, each library has its own
        raise _broken(where, error) from error
    return cast(Client, RetryingClient(opened, where, seconds))


def _without_root() -> ConfigError:
    return ConfigError(
        f"MLFLOW_TRACKING_URI names a database, and {ARTIFACT_ROOT} is not set; expected where the "
        "files of runs and models go, because MLflow would put them below the folder that a "
        "command happens to run in",
        f"set {ARTIFACT_ROOT} to a bucket (s3://BUCKET/FOLDER) or to an absolute folder that every "
        "machine sees",
    )


def _is_broken(error: BaseException) -> bool:
    """Return whether a database is damaged, or may not be written."""
    text = f"{type(error).__name__}: {error}"
    return "DatabaseError" in text or "readonly database" in text


def _is_outdated(error: BaseException) -> bool:
    """Return whether a database has the schema of another MLflow, older or newer."""
    return "out-of-date database schema" in str(error) or "Can't locate revision" in str(error)


def _outdated(where: str) -> ConfigError:
    return ConfigError(
        f"MLflow's store at {where} has the schema of another MLflow; expected that of the one "
        "that is installed, which else can't read it",
        "`nightloom upgrade` brings an older one up, and keeps a copy; a newer one needs the "
        "release of Nightloom that wrote it, or a backup of before",
    )


def _broken(where: str, error: Exception) -> ConfigError:
    first = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ConfigError(
        f"MLflow's store at {where} can't be used: {first}",
        "check MLFLOW_TRACKING_URI where it is set, and that the database may be written; one that "
        "is damaged comes back from a backup",
    )


def _away(where: str, seconds: float, error: Exception) -> ConfigError:
    first = str(error).splitlines()[0][:200]
    return ConfigError(
        f"MLflow's store at {where} did not answer for {seconds:.0f} s: {first}. No alias was left "
        "half-moved that the next release would not find",
        "bring the store back (`nightloom doctor` looks at it) and run the same command again: "
        "what was begun is finished first",
    )
