"""A GGUF file asked through llama.cpp itself, on the CPU."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from tasks.stage.errors import DataError

_ROWS = 16


@dataclass(frozen=True)
class TimedAnswers:
    """Each prompt's answer, how many tokens all of them have, and the seconds that they took."""

    answers: tuple[str, ...]
    tokens: int
    seconds: float


class LlamaCpp:
    """A file that llama.cpp has loaded: its tokenizer, its chats, its scores."""

    def __init__(self, path: Path, *, context: int, rows: int, threads: int, exact: bool) -> None:
        """Load a file, for `rows` prompts at once, each of `context` tokens with its answer.

        `exact`: keys and values are kept in float32, where llama.cpp itself keeps them in float16.

        Raises:
            DataError: llama.cpp does not load it.
        """
        # Deferred: it loads a library of 80 MB, and only GGUF files need it.
        from xllamacpp import CommonParams, Server, ggml_type, llama_flash_attn_type

        self._path, self._key = path, secrets.token_urlsafe()
        params = CommonParams()
        params.model.path = str(path)
        params.n_ctx = rows * context
        params.n_parallel = rows
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = 0
        params.verbosity = 0
        params.api_keys = [self._key]  # it listens on loopback, which others can reach too
        if exact:
            params.cache_type_k = params.cache_type_v = ggml_type.GGML_TYPE_F32
            params.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.warmup = False
        try:
            self._server = Server(params)
        except RuntimeError as error:
            raise DataError(
                f"llama.cpp does not load {path}: {error}", "report it with the model's config.json"
            ) from error
        # A server that is freed before its loop has begun waits for ever for that loop to end. The
        # loop alone answers this route.
        self._ask("/slots")

    def tokens(self, text: str) -> list[int]:
        """Return the ids that it makes of a text, in which it reads special tokens."""
        asked = {"content": text, "add_special": True, "parse_special": True}
        found: list[int] = self._ask("/tokenize", asked)["tokens"]
        return found

    def rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return what it makes of a chat by the template in the file."""
        asked = {"messages": [dict(message) for message in messages]}
        return str(self._ask("/apply-template", asked)["prompt"])

    def log_probabilities(self, prompt: Sequence[int], count: int) -> dict[int, float]:
        """Return those of the `count` likeliest tokens after a prompt, in nats, best first."""
        # It tells of a place only where it says a whole character there. The bias makes it say one,
        # and is no part of what it tells.
        asked = {"n_predict": 1, "temperature": 0, "n_probs": count, "logit_bias": [["a", 1000]]}
        asked["prompt"] = list(prompt)
        [place] = self._ask("/completion", asked)["completion_probabilities"]
        return {int(one["id"]): float(one["logprob"]) for one in place["top_logprobs"]}

    def ends_at(self, token: int) -> bool:
        """Return whether a token ends an answer."""
        asked = {"prompt": [token], "n_predict": 1, "temperature": 0, "logit_bias": [[token, 1e4]]}
        return bool(self._ask("/completion", asked)["stop_type"] == "eos")

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> tuple[str, list[int]]:
        """Return the greedy answer to a prompt as text and as ids, without what ends it."""
        asked = {
            "prompt": list(prompt),
            "n_predict": max_new_tokens,
            "temperature": 0,
            "return_tokens": True,
        }
        found = self._ask("/completion", asked)
        ids = [int(number) for number in found["tokens"]]
        return str(found["content"]), ids[:-1] if found["stop_type"] == "eos" else ids

    def _ask(self, route: str, asked: Mapping[str, Any] | None = None) -> Any:
        """Return the answer of a route to a JSON object, or to nothing at all."""
        request = Request(
            self._server.listening_address + route,
            None if asked is None else json.dumps(asked).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with build_opener(ProxyHandler({})).open(request) as response:
                return json.load(response)
        except HTTPError as error:
            raise DataError(
                f"llama.cpp did not answer from {self._path}: {error.read()[:200]!r}",
                "report it with the model's config.json",
            ) from error


def ask_llama_cpp(
    path: Path, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, threads: int
) -> TimedAnswers:
    """Return what llama.cpp answers to prompts of token ids, greedily, at most 16 of them at a
    time.

    The seconds are those of reading the prompts and answering, not of loading.

    Raises:
        DataError: llama.cpp does not load the file, or does not answer.
    """
    rows = min(_ROWS, len(prompts))
    longest = max(map(len, prompts)) + max_new_tokens
    asked = LlamaCpp(path, context=longest, rows=rows, threads=threads, exact=False)
    begun = time.monotonic()
    with ThreadPoolExecutor(rows) as pool:
        made = list(pool.map(lambda prompt: asked.answer(prompt, max_new_tokens), prompts))
    seconds = time.monotonic() - begun
    return TimedAnswers(tuple(text for text, _ in made), sum(len(ids) for _, ids in made), seconds)
