"""Calls each in a process of its own, so that none finds what another one left behind."""

import importlib
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.queues import SimpleQueue
from typing import Any


class Apart:
    """Makes a process for each call: a new one, or a fork of this one.

    A fork costs no import, but holds from its start what this process holds. This one must not have
    computed anything by torch before, since the threads of that do not survive a fork, nor asked
    for a GPU.
    """

    def __init__(self, *modules: str, forked: bool) -> None:
        """Import the modules that calls need, where calls are forks."""
        self._context: ForkContext | SpawnContext
        self._context = get_context("fork") if forked else get_context("spawn")
        for name in modules if forked else ():
            importlib.import_module(name)

    def __call__(self, call: Callable[..., Any], *arguments: object) -> Any:
        """Return what a function of a module returns in its process."""
        queue: SimpleQueue[Any] = self._context.SimpleQueue()
        child = self._context.Process(target=_answer, args=(queue, call, arguments))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise RuntimeError(f"{call.__name__} ended with exit code {child.exitcode}")
        return queue.get()


def _answer(
    queue: "SimpleQueue[Any]", call: Callable[..., Any], arguments: Sequence[object]
) -> None:
    queue.put(call(*arguments))
