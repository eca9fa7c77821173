"""What only the owner of a checkout may read: the servers' secret, and caches that are trusted."""

import os
import secrets
import stat
from pathlib import Path

from flows.workspace import STATE
from tasks.stage.errors import ConfigError


def private_folder(checkout: Path) -> Path:
    """Return `.nightloom/private`, made where it is missing, that nobody else can enter.

    Raises:
        ConfigError: it belongs to another user, or is open to others.
    """
    state = checkout / STATE
    state.mkdir(mode=0o700, exist_ok=True)
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o022:
        # Whoever may write there could put another folder in the private one's place.
        state.chmod(mode & ~0o022)
    folder = state / "private"
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_owned(folder, 0o700)
    return folder


def secret_file(checkout: Path) -> Path:
    """Return the file of mode 0600 that holds `USER:PASSWORD` of the Prefect server here.

    It is made, with a random password, where it is missing.

    Raises:
        ConfigError: it belongs to another user, or is open to others.
    """
    return _secret(private_folder(checkout) / "prefect-auth", "nightloom:")


def mlflow_secret_file(checkout: Path) -> Path:
    """Return the file of mode 0600 that holds `USER:PASSWORD` of the MLflow server here.

    It is made, with a random password, where it is missing.

    Raises:
        ConfigError: it belongs to another user, or is open to others.
    """
    return _secret(private_folder(checkout) / "mlflow-auth", "nightloom:")


def serving_key_file(checkout: Path) -> Path:
    """Return the file of mode 0600 that holds the key which clients of `nightloom serve` send.

    It is made, with a random key, where it is missing.

    Raises:
        ConfigError: it belongs to another user, or is open to others.
    """
    return _secret(private_folder(checkout) / "serve-key", "")


def _secret(path: Path, prefix: str) -> Path:
    """Return a file of mode 0600; where it is missing, it is made with a random secret."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            draft.touch(mode=0o600, exist_ok=False)
            draft.write_text(f"{prefix}{secrets.token_urlsafe(32)}\n", encoding="utf-8")
            # Of two commands that do this at once the first one's stays.
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink(missing_ok=True)
    _check_owned(path, 0o600)
    return path


def _check_owned(path: Path, mode: int) -> None:
    """Check that a path is a real file or folder of ours with exactly this mode.

    Raises:
        ConfigError: it is not.
    """
    found = path.lstat()
    if found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}, and this is user {os.geteuid()}"
    elif stat.S_ISLNK(found.st_mode):
        problem = "is a symbolic link"
    elif stat.S_IMODE(found.st_mode) != mode:
        problem = f"has the mode {stat.S_IMODE(found.st_mode):04o}"
    else:
        return
    raise ConfigError(
        f"{path} {problem}; expected one of this user's own with the mode {mode:04o}, because "
        "whoever can read or write it can act as this user",
        f"delete {path}: it is made again, and holds nothing that a night needs",
    )
