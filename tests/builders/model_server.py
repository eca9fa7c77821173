"""`tasks.serving.server` in a process of its own, with a key, and what asks it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml

from tasks.feedback.params import Params, RequestParams
from tasks.serving.protocol import NOTICE, KeepLog, Listening, ServeVersion, TellRegistry
from tasks.stage.params import load_params

if TYPE_CHECKING:
    from tests.builders.serving import Bundles

QUESTION = "What does mod.f1 do?"
KEY = "the-key-of-the-tests-0123456789"
BEARER = {"authorization": f"Bearer {KEY}"}


def bounds(**other: float) -> RequestParams:
    """The bounds in params/serving.yaml, some of them otherwise."""
    found = load_params(Params, [Path("params/serving.yaml")]).serving.requests
    return found.model_copy(update=other)


@dataclass
class Server:
    """A running server and the bundles that it may be told to serve."""

    process: "subprocess.Popen[str]"
    address: str
    bundles: "Bundles"
    client: httpx.Client

    def tell(self, order: ServeVersion | TellRegistry | KeepLog) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order.line())
        self.process.stdin.flush()

    def notice(self) -> Any:
        assert self.process.stdout is not None
        return NOTICE.validate_json(self.process.stdout.readline())

    def serve(self, version: int) -> Any:
        self.tell(self.bundles.order(version))
        return self.notice()

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def health(self) -> Any:
        return self.get("/health").json()

    def mark(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/feedback", json=body)

    def post(self, **body: Any) -> httpx.Response:
        content = {"model": "adapter", "messages": [{"role": "user", "content": QUESTION}]} | body
        return self.client.post("/v1/chat/completions", json=content)


def start(bundles: "Bundles", folder: Path, *options: str) -> "subprocess.Popen[str]":
    """The server's process, its params and key in a folder; other options replace `--key-file`."""
    params, key = folder / "serving.yaml", folder / "key"
    if not params.exists():
        shutil.copyfile("params/serving.yaml", params)
    key.write_text(f"{KEY}\n")
    command = [sys.executable, "-m", "tasks.serving.server", "--store", str(bundles.store)]
    command += ["--model", "adapter", "--params", str(params)]
    if "--no-key" not in options:
        command += ["--key-file", str(key)]
    return subprocess.Popen(
        [*command, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def set_bounds(folder: Path, bounds: Mapping[str, float]) -> None:
    """Params with other bounds than the default ones."""
    content = yaml.safe_load(Path("params/serving.yaml").read_text())
    content["requests"] |= bounds
    (folder / "serving.yaml").write_text(yaml.safe_dump(content))


@contextmanager
def running(bundles: "Bundles", folder: Path, *options: str) -> Iterator[Server]:
    """A server that listens and has loaded nothing yet; it has ended well after the block."""
    process = start(bundles, folder, "--port", "0", *options)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (folder / "log").read_text()
        listening = NOTICE.validate_json(line)
        assert isinstance(listening, Listening)
        # No proxy of the environment: what is asked of loopback goes nowhere else.
        with httpx.Client(
            base_url=listening.address, headers=BEARER, timeout=60, trust_env=False
        ) as client:
            yield Server(process, listening.address, bundles, client)
        process.stdin.close()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()
