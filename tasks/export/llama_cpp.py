"""A GGUF file asked through llama.cpp itself, on the CPU."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.errors import DataError

_ROWS = 16


@dataclass(frozen=True)
class TimedAnswers:
    """Each prompt's answer, how many tokens all of them have, and the seconds that they took."""

    answers: tuple[str, ...]
    tokens: int
    seconds: float


def ask_llama_cpp(
    path: Path, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, threads: int
) -> TimedAnswers:
    """Return what llama.cpp answers to prompts of token ids, greedily, at most 16 of them at a
    time.

    The seconds are those of reading the prompts and answering, not of loading.

    Raises:
        DataError: llama.cpp does not load the file, or does not answer.
    """
    # Deferred: it loads a library of 80 MB, and only --measure asks it.
    from xllamacpp import CommonParams, Server

    rows = min(_ROWS, len(prompts))
    params = CommonParams()
    params.model.path = str(path)
    params.n_ctx = rows * (max(map(len, prompts)) + max_new_tokens)
    params.n_parallel = rows
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    params.verbosity = 0
    try:
        server = Server(params)
    except RuntimeError as error:
        raise DataError(
            f"llama.cpp does not load {path}: {error}", "report it with the model's config.json"
        ) from error

    def ask(prompt: Sequence[int]) -> tuple[str, int]:
        asked = {"prompt": list(prompt), "n_predict": max_new_tokens, "temperature": 0}
        found: Any = server.handle_completions(asked)
        if "choices" not in found:
            raise DataError(
                f"llama.cpp did not answer from {path}: {str(found)[:200]}",
                "report it with the model's config.json",
            )
        return found["choices"][0]["text"], found["usage"]["completion_tokens"]

    begun = time.monotonic()
    with ThreadPoolExecutor(rows) as pool:
        texts, counts = zip(*pool.map(ask, prompts), strict=True)
    return TimedAnswers(texts, sum(counts), time.monotonic() - begun)
