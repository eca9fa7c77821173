"""`nightloom serve` on the last night's bundle: first answer, latency, a swap under load.

The command itself is measured, in a project of its own whose registry has two versions of that
bundle; nothing of the night is written to. Questions are those of the night's test split, answered
with retrieval. Each client asks again as soon as it was answered, so that N clients are N requests
in flight. Times are the client's. A swap is the alias moved to the other version while 200 requests
are in flight; lost is every request that is not answered in full by one version.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from mlflow.tracking import MlflowClient

from flows.credentials import serving_key_file
from flows.model_server import ModelServer
from tasks.records.schema import read_records
from tasks.stage.errors import ConfigError
from tests.builders.uploads import add_version

NAME = "nightloom-adapter"
CLIENTS = (1, 4, 8)
_START_SECONDS = 300.0


@dataclass(frozen=True)
class Project:
    """A folder in which `nightloom serve` finds versions 1 and 2 of a night's bundle."""

    root: Path
    client: MlflowClient

    def promote(self, version: int) -> None:
        """Let `production` name a version."""
        self.client.set_registered_model_alias(NAME, "production", str(version))

    @property
    def headers(self) -> dict[str, str]:
        """What its clients send."""
        return {"authorization": f"Bearer {serving_key_file(self.root).read_text().strip()}"}


@dataclass(frozen=True)
class Answered:
    """One request: how long its client waited, until the first token and in all."""

    seconds: float
    first_token_seconds: float
    version: int
    is_whole: bool


def make_project(root: Path, workspace: Path) -> Project:
    """A project over a workspace's bundle and models, which are linked to."""
    bundle = (workspace / "data/bundle").resolve()
    if not bundle.exists():
        raise ConfigError(f"{bundle} is missing", "run `nightloom run` first, or --workspace DIR")
    for name in ("prefect.yaml", "dvc.yaml"):
        (root / name).touch()
    (root / "params").mkdir()
    (root / "params/paths.yaml").write_text((workspace / "params/paths.yaml").read_text())
    shutil.copyfile("params/serving.yaml", root / "params/serving.yaml")
    (root / ".nightloom").mkdir()
    (root / ".nightloom/models").symlink_to((workspace / ".nightloom/models").resolve())
    client = MlflowClient(f"sqlite:///{root / '.nightloom/mlflow.db'}")
    client.create_registered_model(NAME)
    for version in (1, 2):
        folder = root / f"model-{version}" / "artifacts"
        folder.mkdir(parents=True)
        (folder / "bundle").symlink_to(bundle)
        add_version(client, "adapter", folder.parent, root / ".nightloom" / "artifacts")
    return Project(root, client)


@contextmanager
def running(project: Project, *more: str) -> Iterator[tuple[str, float, int]]:
    """The address of a server that has just answered once, in how many seconds, and its pid.

    `more` are further options of `nightloom serve`.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "serve", "--root", str(project.root)]
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    process = subprocess.Popen(
        [*command, "--port", "0", *more], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        address = _ready(project, process)
        httpx.post(
            f"{address}/v1/chat/completions",
            json=_body("What does json.dumps do?"),
            headers=project.headers,
            timeout=120,
            trust_env=False,
        ).raise_for_status()
        yield address, time.perf_counter() - started, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _ready(project: Project, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _START_SECONDS
    with httpx.Client(
        trust_env=False
    ) as client:  # one a look would keep a core busy that the server needs
        while time.monotonic() < deadline and process.poll() is None:
            serving = ModelServer.read(project.root)
            with suppress(httpx.HTTPError):
                if serving and client.get(f"{serving.address}/health").status_code == 200:
                    return serving.address
            time.sleep(0.05)
    raise ConfigError(
        "the server did not come up", f"read {project.root}/.nightloom/logs/serve.log"
    )


def _body(question: str) -> dict[str, Any]:
    return {"model": "adapter", "messages": [{"role": "user", "content": question}]}


async def _ask(client: httpx.AsyncClient, question: str) -> Answered:
    started = time.perf_counter()
    try:
        response = await client.post("/v1/chat/completions", json=_body(question))
        seconds = time.perf_counter() - started
        found = response.json()
        text = found["choices"][0]["message"]["content"]
        whole = response.status_code == 200 and isinstance(text, str)
        used = found["nightloom"]
        return Answered(seconds, used["first_token_ms"] / 1000, used["version"], whole)
    except (httpx.HTTPError, ValueError, LookupError):
        return Answered(time.perf_counter() - started, 0.0, 0, False)


def _client(project: Project, address: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=address, headers=project.headers, trust_env=False, **options)


async def load(
    project: Project, address: str, questions: Sequence[str], clients: int
) -> list[Answered]:
    """Every question asked once, by so many clients at a time."""
    waiting, found = iter(questions), list[Answered]()

    async def work(client: httpx.AsyncClient) -> None:
        for question in waiting:
            found.append(await _ask(client, question))

    async with _client(project, address, timeout=600) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return found


async def swap(
    project: Project, address: str, questions: Sequence[str], requests: int
) -> dict[str, Any]:
    """What became of so many requests in flight, and of those after them, when the alias moved."""
    asked, found = itertools.cycle(questions), list[Answered]()
    limits = httpx.Limits(max_connections=None)
    async with _client(project, address, timeout=1200, limits=limits) as client:

        async def work() -> None:
            found.append(await _ask(client, next(asked)))

        in_flight = [asyncio.create_task(work()) for _ in range(requests)]
        while not found:
            await asyncio.sleep(0.05)
        project.promote(2)
        started = time.perf_counter()
        while await _version(client) != 2:
            await asyncio.sleep(0.1)
        seconds = time.perf_counter() - started
        after = [asyncio.create_task(work()) for _ in range(8)]
        await asyncio.gather(*in_flight, *after)
    return {
        "in_flight": requests,
        "requests": len(found),
        "lost": sum(not item.is_whole for item in found),
        "by_the_old_version": sum(item.version == 1 for item in found),
        "by_the_new_version": sum(item.version == 2 for item in found),
        "noticed_and_loaded_seconds": round(seconds, 1),
    }


async def _version(client: httpx.AsyncClient) -> int:
    found = (await client.get("/health")).json()
    number: int = found["models"]["adapter"]["version"]
    return number


def latencies(answered: Sequence[Answered], seconds: float) -> dict[str, float]:
    """Percentiles of what clients waited, in seconds, and how many were answered a second."""
    waits = sorted(item.seconds for item in answered)
    first = sorted(item.first_token_seconds for item in answered)
    return {
        "p50": round(statistics.median(waits), 3),
        "p95": round(_percentile(waits, 0.95), 3),
        "first_token_p50": round(statistics.median(first), 3),
        "first_token_p95": round(_percentile(first, 0.95), 3),
        "answers_a_second": round(len(answered) / seconds, 2),
        "lost": sum(not item.is_whole for item in answered),
    }


def _percentile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, round(share * (len(ascending) - 1)))]


def main() -> int:
    """Measure and print; 0 when it ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 questions, one start, 40 in flight")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where a night ran")
    options = parser.parse_args()
    starts, asked, in_flight = (1, 8, 40) if options.quick else (3, 48, 200)
    curated = options.workspace / "data/curated/test.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), options.workspace)
        questions = [record.question for record in read_records(curated)][:asked]
        firsts, by_clients = [], {}
        for number in range(starts):
            project.promote(1)
            with running(project) as (address, seconds, pid):
                firsts.append(round(seconds, 2))
                if number < starts - 1:
                    continue
                for clients in CLIENTS:
                    started = time.perf_counter()
                    answered = asyncio.run(load(project, address, questions, clients))
                    passed = time.perf_counter() - started
                    by_clients[str(clients)] = latencies(answered, passed)
                one = _megabytes(pid)
                swapped = asyncio.run(swap(project, address, questions, in_flight))
                both = _megabytes(pid, peak=True)
    figures = {
        "first_answer_seconds": firsts,
        "questions": len(questions),
        "latency_seconds_by_clients": by_clients,
        "swap": swapped,
        "server_mb": {"one_version": one, "peak": both},
    }
    print(json.dumps({"benchmark": "serving", "ratios": {}, "spread": {}, "figures": figures}))
    return 0


def _megabytes(pid: int, *, peak: bool = False) -> int:
    """What the server's own process, a child of the command, holds of memory, or held at most."""
    [server] = psutil.Process(pid).children()
    if not peak:
        return round(server.memory_info().rss / 1e6)
    status = Path(f"/proc/{server.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return round(int(line.split()[1]) / 1000)


if __name__ == "__main__":
    sys.exit(main())
