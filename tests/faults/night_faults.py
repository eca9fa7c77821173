"""The faults of whole nights: which there are, the seeded plan of them, and how each is made."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from flows.run_state import NightState
from tests.builders.clones import nightloom
from tests.faults.night_site import NotInTimeError, Site, wait_for

SEED = 25
ANY = "any time"
STAGES = tuple(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])
RELEASE = ("registering", "asking what was registered", "measuring speed", "judging")
SERVERS = ("prefect", "mlflow")
AWAY_SECONDS = 12.0  # that a store is locked, away or read-only
GONE = 2**22 + 7  # no process has this pid: Linux counts to 2^22

_CLOSED_SECONDS = 100.0  # that `up` has to end once it is told to


@dataclass(frozen=True)
class Fault:
    """What is done to a night, in which step of it, and after which share of the step's time.

    Where `step` is a stage, it is the one that has to run.
    """

    kind: str
    step: str
    share: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}, {self.step}"

    @property
    def is_between(self) -> bool:
        """Whether it is there before the night begins."""
        return self.kind in BEFORE


def plan(seed: int = SEED) -> list[Fault]:
    """All faults, in an order that any beginning of it holds many kinds."""
    drawn = random.Random(seed)
    found = [*_signals(drawn), *_of_releases(), *_of_stores(drawn), *_before(drawn)]
    places = [Fault(kind, step, round(drawn.uniform(0.1, 0.7), 2)) for kind, step in found]
    drawn.shuffle(places)
    return places


def _signals(drawn: random.Random) -> Iterator[tuple[str, str]]:
    """Every process of a night killed in stages, told to end in one, and killed at any time."""
    for who in ("child", "flow"):
        yield from ((f"SIGKILL {who}", stage) for stage in STAGES)
    for who in ("worker", "up"):
        yield from ((f"SIGKILL {who}", stage) for stage in drawn.sample(STAGES, 5))
    for who in ("prefect", "mlflow", "dvc", "supervisor"):
        yield from ((f"SIGKILL {who}", stage) for stage in drawn.sample(STAGES, 3))
    for who in ("child", "flow", "worker", "prefect", "mlflow", "up"):
        yield f"SIGTERM {who}", drawn.choice(STAGES)
    yield "SIGHUP up", drawn.choice(STAGES)
    yield from ((f"SIGKILL {who}", ANY) for who in ("flow", "worker", "up", "prefect"))


def _of_releases() -> Iterator[tuple[str, str]]:
    yield from (("SIGKILL flow", step) for step in RELEASE)
    yield from (("SIGKILL child", step) for step in RELEASE[1:3])
    yield from (("SIGKILL worker", RELEASE[0]), ("SIGKILL up", RELEASE[1]))
    yield from (("SIGKILL mlflow", RELEASE[0]), ("SIGKILL prefect", RELEASE[2]))


def _of_stores(drawn: random.Random) -> Iterator[tuple[str, str]]:
    """Stores that are away, two nights at once, and what is changed while a stage runs."""
    for kind in ("locked mlflow.db", "absent mlflow.db", "read-only mlflow.db"):
        yield from ((kind, stage) for stage in drawn.sample(STAGES, 2))
    yield "locked prefect.db", drawn.choice(STAGES)
    yield from ((kind, drawn.choice(STAGES)) for kind in ("a second run", "a run beside"))
    yield from (("code changed", stage) for stage in drawn.sample(STAGES[2:5], 2))
    yield "params changed", "packaging"
    yield "a bit of a checkpoint", "finetuning"


def _before(drawn: random.Random) -> Iterator[tuple[str, str]]:
    yield from ((kind, drawn.choice(("indexing", "tokenization"))) for kind in _STALE)
    yield from ((f"a bit of {name}", reader) for name, reader in _READ_BY.items())
    yield "a bit of the cache", "tokenization"
    yield "a bit of the cache, adapter gone", "distillation"


def strike(site: Site, night: NightState | None, fault: Fault) -> None:
    """Do what a fault does, to a night that runs."""
    what, _, who = fault.kind.partition(" ")
    if what.startswith("SIG"):
        _signal(site, night, fault, signal.Signals[what], who)
    else:
        _DURING[fault.kind](site, fault)


def _signal(
    site: Site, night: NightState | None, fault: Fault, number: signal.Signals, who: str
) -> None:
    if who == "up":
        assert site.up is not None
        site.up.send_signal(number)
        site.up.wait(_CLOSED_SECONDS)
        return
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = _victims(site, night, who, fault.step)
        return bool(found)

    wait_for(is_there, 60, f"there is no {who} in {fault.step}")
    with suppress(psutil.NoSuchProcess):
        found[0].send_signal(number)


def _victims(site: Site, night: NightState | None, who: str, step: str) -> list[psutil.Process]:
    """The processes that are meant, the one that started the others first."""
    if who == "flow":
        known = [one for one in site.tree() if night is not None and one.pid == night.pid]
        return known or [one for one in site.flows() if not _is_supervisor(_line(one))]
    if who == "child" and step not in STAGES:  # a server, a measurement
        below = [] if night is None else _below(night.pid)
        return [one for one in below if not _is_supervisor(_line(one))]
    return [one for one in site.tree() if _is(who, _line(one), step)]


def _is(who: str, line: list[str], step: str) -> bool:
    if who == "supervisor":
        return _is_supervisor(line) and "repro" in line
    if who in SERVERS:
        return line[2:3] != [] and line[2].endswith("guarded_server.py") and line[3] == who
    wanted = {"child": f"tasks.{step}", "dvc": "dvc", "worker": "prefect"}[who]
    return line[1:3] == ["-m", wanted] and (who != "worker" or "worker" in line)


def _is_supervisor(line: list[str]) -> bool:
    return line[2:3] != [] and line[2].endswith("supervisor.py")


def _line(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return list(process.cmdline())
    return []


def _below(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _locked(name: str) -> Callable[[Site, Fault], None]:
    def lock(site: Site, _: Fault) -> None:
        path = site.root / ".nightloom" / name
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(AWAY_SECONDS)
            connection.execute("ROLLBACK")

    return lock


def _absent(site: Site, _: Fault) -> None:
    path = site.root / ".nightloom" / "mlflow.db"
    path.rename(aside := path.with_suffix(".aside"))
    time.sleep(AWAY_SECONDS)
    aside.replace(path)  # over an empty one that somebody may have made meanwhile


def _read_only(site: Site, _: Fault) -> None:
    path = site.root / ".nightloom" / "mlflow.db"
    _set_immutable(path, on=True)
    try:
        time.sleep(AWAY_SECONDS)
    finally:
        _set_immutable(path, on=False)


def _set_immutable(path: Path, *, on: bool) -> None:
    """Let nobody write a file: root neither, to whom its mode says nothing."""
    if not on and os.geteuid() == 0:
        subprocess.run(["chattr", "-i", str(path)], check=True)
    path.chmod(0o400 if on else 0o600)
    if on and os.geteuid() == 0:
        subprocess.run(["chattr", "+i", str(path)], check=True)


def can_protect(folder: Path) -> bool:
    """Whether a file can be made read-only for this user."""
    path = folder / "probe"
    path.touch()
    try:
        _set_immutable(path, on=True)
        try:
            path.write_text("x")
        except OSError:
            return True
        return False
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        with suppress(OSError, subprocess.CalledProcessError):
            _set_immutable(path, on=False)


def _second_run(site: Site, _: Fault) -> None:
    """A second night from the schedule: the slot is taken, so the server cancels it."""
    site.start_night()


def _run_beside(site: Site, _: Fault) -> None:
    done = nightloom(site.root, "run")
    assert done.returncode == 1, done.stdout[-2000:]
    assert "a night is running here already" in " ".join(done.stderr.split())


def _code_changed(site: Site, fault: Fault) -> None:
    site.edit(fault.step)


def _params_changed(site: Site, _: Fault) -> None:
    new_bundle(site)


def _checkpoint_flipped(site: Site, fault: Fault) -> None:
    """A training killed once it has a checkpoint, of which a bit flips."""
    folder = site.root / "data" / "scratch" / fault.step
    kept: list[Path] = []

    def is_kept() -> bool:
        kept[:] = [path for path in folder.glob("checkpoint-*/*") if path.is_file()]
        return bool(kept)

    with suppress(NotInTimeError):  # so few steps that it has ended: then nothing is gone on from
        wait_for(is_kept, 60, "there is no checkpoint")
    for process in _victims(site, None, "child", fault.step):
        process.kill()
    for path in kept:
        flip(path)


def new_bundle(site: Site) -> None:
    """Let the next night make a bundle that none has made: other golden prompts."""
    number = site.bundles = site.bundles + 1
    site.set_param("packaging", "golden_tokens", 1 + number % 12)
    site.set_param("packaging", "golden_answers", 2 + number // 12)


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file, as a disk does: its times stay."""
    content = bytearray(path.read_bytes())
    if not content:
        return
    content[len(content) // 2] ^= 1
    found = path.stat()
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(found.st_mode)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


# Which stage reads what, of the promised outs and the bundle, which the release reads.
_READ_BY = {
    "accepted": "curation",
    "curated": "tokenization",
    "tokens": "finetuning",
    "adapter": "distillation",
    "students": "evaluation",
    "index": "packaging",
    "bundle": "indexing",
}


def _out_flipped(site: Site, fault: Fault) -> None:
    folder = site.root / "data" / fault.kind.rpartition(" ")[2]
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    flip(max(paths, key=lambda path: path.stat().st_size))


def _cached(site: Site, name: str) -> list[Path]:
    """The files in DVC's cache of which an out consists, the largest first."""
    cache = site.root / ".dvc" / "cache" / "files" / "md5"
    digest = site.outs()[f"data/{name}"][0]
    listing = cache / digest[:2] / digest[2:]
    found = [cache / one["md5"][:2] / one["md5"][2:] for one in json.loads(listing.read_text())]
    return sorted(found, key=lambda path: -path.stat().st_size)


def _cache_flipped(site: Site, _: Fault) -> None:
    flip(_cached(site, "curated")[0])


def _cache_flipped_and_needed(site: Site, _: Fault) -> None:
    flip(_cached(site, "adapter")[0])
    shutil.rmtree(site.root / "data" / "adapter")


def _rwlock(text: Callable[[Site, str], str]) -> Callable[[Site, Fault], None]:
    def leave(site: Site, fault: Fault) -> None:
        path = site.root / ".dvc" / "tmp" / "rwlock"
        path.parent.mkdir(parents=True, exist_ok=True)
        out = {"indexing": "index", "tokenization": "tokens"}[fault.step]
        path.write_text(text(site, str(site.root / "data" / out)))

    return leave


def _held_by(pid: int) -> Callable[[Site, str], str]:
    def text(_: Site, out: str) -> str:
        return json.dumps({"write": {out: {"pid": pid, "cmd": "dvc repro"}}, "read": {}})

    return text


def _torn_lock(site: Site, _: Fault) -> None:
    path = site.root / "dvc.lock"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _left_pids(site: Site, _: Fault) -> None:
    """What holders of our locks leave who are killed; another process has the pid by now."""
    for name in ("night", "promotion", "notify"):
        lock = site.root / ".nightloom" / f"{name}.lock"
        lock.touch()
        lock.with_name(f"{lock.name}.pid").write_text("1\n")
    (site.root / ".dvc" / "tmp").mkdir(parents=True, exist_ok=True)
    (site.root / ".dvc" / "tmp" / "lock").write_text(f" {GONE}\n")


_STALE: dict[str, Callable[[Site, Fault], None]] = {
    "rwlock of a dead process": _rwlock(_held_by(GONE)),
    "rwlock whose pid another has": _rwlock(_held_by(1)),
    "torn rwlock": _rwlock(lambda *_: '{"write": {"/data'),
    "torn dvc.lock": _torn_lock,
    "our locks left": _left_pids,
}
_DURING: dict[str, Callable[[Site, Fault], None]] = {
    "locked mlflow.db": _locked("mlflow.db"),
    "locked prefect.db": _locked("prefect/prefect.db"),
    "absent mlflow.db": _absent,
    "read-only mlflow.db": _read_only,
    "a second run": _second_run,
    "a run beside": _run_beside,
    "code changed": _code_changed,
    "params changed": _params_changed,
    "a bit of a checkpoint": _checkpoint_flipped,
}
BEFORE: dict[str, Callable[[Site, Fault], None]] = {
    **_STALE,
    **{f"a bit of {name}": _out_flipped for name in _READ_BY},
    "a bit of the cache": _cache_flipped,
    "a bit of the cache, adapter gone": _cache_flipped_and_needed,
}
