"""Answers of the version that an alias names: by the running server, else by a child."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.environment import find_stores
from flows.model_server import ModelServer
from flows.workspace import STATE, WorkspacePaths
from tasks.records.schema import ServedModel
from tasks.services.loopback import open_directly
from tasks.services.processes import end_child, start_child
from tasks.stage.errors import ConfigError
from tasks.stage.params import read_yaml

_SERVER_SECONDS = 120.0


class PassageUsed(BaseModel):
    """A passage that the model was given."""

    id: str
    text: str
    score: float


class ModelAnswer(BaseModel):
    """What the model said, and from what; `server` is the address of the server that answered."""

    model: ServedModel
    answer: str
    passages: list[PassageUsed]
    latency_ms: float
    version: int = 0
    alias: str = ""
    server: str | None = None


def ask_model(
    checkout: Path,
    question: str,
    model: ServedModel,
    alias: str | None,
    where: Sequence[str],
) -> ModelAnswer:
    """Return the answer of the champion, or of the version that `alias` names.

    A `nightloom serve` of this checkout is asked where it serves what is asked for; else the
    version is loaded for this question. `where` are conditions `FIELD=VALUE` on the passages that
    are searched.

    Raises:
        ConfigError: no such version, or it could not answer.
    """
    if not question.strip():
        raise ConfigError("the question is empty; expected some text", "ask something")
    served = _ask_server(checkout, question, model, alias, where)
    return served or _ask_child(checkout, question, model, alias, where)


def _ask_server(
    checkout: Path, question: str, model: str, alias: str | None, where: Sequence[str]
) -> ModelAnswer | None:
    """Return the running server's answer, None if none runs or it serves another version.

    Raises:
        ConfigError: it refused the question.
    """
    serving = ModelServer.read(checkout)
    if serving is None or model not in serving.models:
        return None
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "where": list(where),
    }
    try:
        shown = _get(serving, "/health")["models"][model]
        if shown["version"] is None or alias not in (serving.alias, shown["alias"]):
            return None
        found = _get(serving, "/v1/chat/completions", body)
    except urllib.error.HTTPError as error:
        if error.code >= 500:  # it loads, or it broke: a child of our own answers
            return None
        raise ConfigError(
            f"the server at {serving.address} refused: {_reason(error)}", "mend the question"
        ) from None
    except OSError:
        return None
    used = found["nightloom"]
    return ModelAnswer(
        model=found["model"].removeprefix("nightloom-"),
        answer=found["choices"][0]["message"]["content"],
        passages=used["passages"],
        latency_ms=used["latency_ms"],
        version=used["version"],
        alias=used["alias"],
        server=serving.address,
    )


def _get(serving: ModelServer, path: str, body: object = None) -> Any:
    """Return what a server of this checkout answers, as JSON; it is sent the server's key."""
    headers = {"content-type": "application/json"}
    if serving.key_file is not None:
        key = serving.key_file.read_text(encoding="ascii").strip()
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{serving.address}{path}", data, headers)
    with open_directly(
        request, timeout_seconds=_SERVER_SECONDS, certificate=serving.certificate
    ) as response:
        return json.load(response)


def _reason(error: urllib.error.HTTPError) -> str:
    return str(json.load(error)["error"]["message"])


def _ask_child(
    checkout: Path,
    question: str,
    model: ServedModel,
    alias: str | None,
    where: Sequence[str],
) -> ModelAnswer:
    """Return the answer of a child that loads the version for this question.

    It starts before the registry is asked, so that its imports and mlflow's go on side by side;
    the bundle's path follows on its standard input, and so does the question: every user of the
    machine can read a process's arguments.
    """
    paths = WorkspacePaths.model_validate(read_yaml(checkout / "params" / "paths.yaml"))
    command = [sys.executable, "-m", "tasks.answering", "--bundle", "-", "--model", model, "--json"]
    command += ["--store", str(checkout / paths.model_store), "--question", "-"]
    command += [part for condition in where for part in ("--where", condition)]
    pipe = subprocess.PIPE
    child = start_child(command, checkout, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        name, number, bundle = _find_bundle(checkout, model, alias)
        said, last = _tell(child, f"{bundle}\n{question}")
    finally:
        end_child(child)
    if child.returncode != 0:
        raise ConfigError(f"the model could not answer:\n{last}", "mend what these lines name")
    answer = ModelAnswer.model_validate_json(said)
    return answer.model_copy(update={"version": number, "alias": name})


def _find_bundle(checkout: Path, model: ServedModel, alias: str | None) -> tuple[str, int, Path]:
    """Return the alias, the version that it names, and its bundle."""
    # Deferred: mlflow takes seconds to import, and a server's answer needs none of it.
    from tasks.registry.aliases import choose_version
    from tasks.registry.audit import bundle_to_serve
    from tasks.registry.client import Registry
    from tasks.registry.erased import check_may_serve

    registry = Registry(find_stores(checkout))
    name, number = choose_version(registry.aliases(model), model, alias)
    check_may_serve(registry, model, number)
    version = registry.version(model, number)
    return name, number, bundle_to_serve(registry, version, checkout / STATE / "downloads")


def _tell(child: "subprocess.Popen[str]", text: str) -> tuple[str, str]:
    """Return the last line of a child's standard output, and the last ones of its errors."""
    errors: deque[str] = deque(maxlen=8)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    stderr = child.stderr
    reader = threading.Thread(target=lambda: errors.extend(stderr), daemon=True)
    reader.start()
    with suppress(BrokenPipeError):  # it has ended, and says why
        child.stdin.write(text)
        child.stdin.close()
    said = deque(child.stdout, maxlen=1)
    child.wait()
    reader.join()
    return "".join(said), "".join(errors).rstrip()
