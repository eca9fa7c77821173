"""A checkout whose nights run under a real `nightloom up`, to be disturbed.

It is a copy of a clone after its first night, whose workspace has become the checkout's own data,
params and lock: nights run in the checkout itself, as they do by default. A night with nothing new
skips every stage. `edit` puts a file beside a stage's code, which its `deps` in dvc.yaml cover and
nothing reads: the next night runs that stage, its outs are the same bytes, and so no later stage
runs. One undisturbed night is thus the reference of all.
"""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import psutil
import yaml
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows.run_state import NightState, new_night_name, night_file, read_night
from flows.servers import Services, server_secret
from flows.shutdown import ROOT
from tasks.orchestration.flow_runs import start_deployed
from tasks.services.loopback import answers
from tests.builders.clones import BuiltClone, as_in_a_terminal, command, environment, git
from tests.builders.notified import write_params
from tests.pipeline.test_closing import ports

# Outs that the same params, data and code make to the last byte.
PROMISED = ("accepted", "curated", "tokens", "adapter", "students", "index")
GOOD = ("promoted", "unchanged")
_EDITED = "edited.txt"
_LOOK_SECONDS = 0.1
_UP_SECONDS = 240.0
_NIGHT_SECONDS = 420.0
_LEFT_SECONDS = 20.0  # that what was killed has to end with all that it started
_FLOW_RUN = "PREFECT__FLOW_RUN_ID"
_TELL = 'echo "$NIGHTLOOM_EVENT $NIGHTLOOM_NIGHT" >> .nightloom/told.txt'
_CHANNEL = {"name": "file", "verdicts": "all", "kind": "command", "command": ["sh", "-c", _TELL]}
# A worker looks for nights every ten seconds by default.
_HURRY = {"PREFECT_WORKER_QUERY_SECONDS": "2", "OMP_NUM_THREADS": "1"}


class NotInTimeError(AssertionError):
    """What was waited for did not come."""


def wait_for(what: Callable[[], object], seconds: float, why: str) -> None:
    """Wait until something is true.

    Raises:
        NotInTimeError: it was not, for so long.
    """
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise NotInTimeError(f"not after {seconds:.0f} s: {why}")
        time.sleep(_LOOK_SECONDS)


def folder_digest(folder: Path) -> str:
    """The SHA-256 over the names and bytes of all files below a folder."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


class Site:
    """A checkout and its `up`; `root` is the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.up: subprocess.Popen[bytes] | None = None
        self.bundles = 0  # that nights were asked for beside the first
        self._edits = 0

    @classmethod
    def make(cls, built: BuiltClone, root: Path) -> "Site":
        """Copy a clone after its first night, and make what its workspace holds the checkout's."""
        checkout = built.copy(root)
        [workspace] = (checkout / ".nightloom" / "workspaces").iterdir()
        for name in ("data", "params"):
            shutil.copytree(workspace / name, checkout / name, dirs_exist_ok=True, symlinks=True)
        shutil.copy2(workspace / "dvc.lock", checkout / "dvc.lock")
        shutil.rmtree(workspace)
        write_params(checkout, _CHANNEL)
        git(checkout, "add", "--all")
        git(checkout, "commit", "--quiet", "-m", "the tiny preset")
        return cls(checkout)

    def start_up(self) -> None:
        """Start `nightloom up`, and wait until the worker is there."""
        with (self.root / ".nightloom" / "said.log").open("ab") as log:
            self.up = subprocess.Popen(
                command("up", *ports(), "--cron", "0 0 1 1 *"),
                cwd=self.root, env=environment() | _HURRY, stdout=log, stderr=log,
                preexec_fn=as_in_a_terminal, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: self.is_up or self.up_has_ended, _UP_SECONDS, "`up` is not up")
        assert not self.up_has_ended, self.said

    @property
    def is_up(self) -> bool:
        return Services.read(self.root) is not None

    @property
    def up_has_ended(self) -> bool:
        return self.up is None or self.up.poll() is not None

    @property
    def said(self) -> str:
        """What `up` said last."""
        return (self.root / ".nightloom" / "said.log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End `up`, and whatever lives in the checkout."""
        if self.up is not None and self.up.poll() is None:
            self.up.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.up.wait(120)
            self.up.kill()
            self.up.wait()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def edit(self, stage: str) -> None:
        """Let the next night run a stage, which makes what it made."""
        self._edits += 1
        path = self.root / "tasks" / stage / _EDITED
        path.write_text(f"{os.getpid()} {self._edits} {time.time()}\n")

    def set_param(self, file: str, name: str, value: object) -> None:
        """Write one value into a params file of the checkout."""
        path = self.root / "params" / f"{file}.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(content | {name: value}, allow_unicode=True))

    def param(self, file: str, name: str) -> object:
        path = self.root / "params" / f"{file}.yaml"
        return yaml.safe_load(path.read_text(encoding="utf-8"))[name]

    @contextmanager
    def prefect(self) -> Iterator[None]:
        """Let Prefect's client in this process talk to the server of `up`, once it answers."""
        wait_for(lambda: self.is_up, _UP_SECONDS, "`up` is not up")
        services = Services.read(self.root)
        assert services is not None
        address = services.prefect_api
        wait_for(lambda: answers(f"{address}/health"), _UP_SECONDS, "Prefect does not answer")
        secret = server_secret(self.root)
        with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: secret}):
            yield

    def start_night(self) -> str:
        """Let the worker start a night; its name."""
        while night_file(self.root, name := new_night_name(datetime.now(UTC))).exists():
            time.sleep(_LOOK_SECONDS)
        with self.prefect():
            start_deployed("nightly/nightly", f"nightly {name}", {"night": name}, wait_seconds=0.0)
        return name

    def night(self, name: str) -> NightState | None:
        """A night as its file says, None before it has one."""
        path = night_file(self.root, name)
        return read_night(path) if path.exists() else None

    def nights(self) -> list[NightState]:
        """All nights, oldest first."""
        paths = (self.root / ".nightloom" / "nights").glob("[!.]*.json")
        return [read_night(path) for path in sorted(paths)]

    def ended(self, name: str) -> NightState:
        """A night once it has a verdict and its process is gone."""

        def is_over() -> bool:
            night = self.night(name)
            return night is not None and night.verdict is not None and not self.flows()

        wait_for(is_over, _NIGHT_SECONDS, f"night {name} has no verdict, or its process stays")
        night = self.night(name)
        assert night is not None
        return night

    def processes(self) -> list[psutil.Process]:
        """Every process that lives and was started for this checkout, by whomever."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                of_up = process.environ().get(ROOT) == str(self.root)
                inside = Path(process.cwd()).is_relative_to(self.root)
                if (of_up or inside) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def tree(self) -> list[psutil.Process]:
        """What `up` has started, at any depth."""
        if self.up is None or self.up.poll() is not None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.up.pid).children(recursive=True)
        return []

    def flows(self) -> list[psutil.Process]:
        """What runs for a night."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                if _FLOW_RUN in process.environ():
                    found.append(process)
        return found

    def orphans(self) -> list[str]:
        """What lives though no night runs, and is not what `up` keeps, once it had time to end."""

        def left() -> list[psutil.Process]:
            kept = set() if self.up is None else {self.up.pid, *(one.pid for one in self.tree())}
            flows = {one.pid for one in self.flows()}
            return [one for one in self.processes() if one.pid not in kept or one.pid in flows]

        with suppress(NotInTimeError):
            wait_for(lambda: not left(), _LEFT_SECONDS, "something lives on")
        told = []
        for process in left():
            with suppress(psutil.NoSuchProcess):
                told.append(f"{process.pid} {' '.join(process.cmdline())[:160]}")
        return told

    def outs(self) -> dict[str, tuple[str, str]]:
        """Of each promised out: what dvc.lock says of it, and what lies there."""
        locked = yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        md5s = {out["path"]: out["md5"] for stage in locked.values() for out in stage["outs"]}
        names = [f"data/{name}" for name in PROMISED]
        return {name: (md5s[name], folder_digest(self.root / name)) for name in names}

    @cached_property
    def reference(self) -> dict[str, tuple[str, str]]:
        """The outs of the undisturbed night; ask before anything is disturbed."""
        return self.outs()
