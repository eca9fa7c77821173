"""How much memory a call takes above what its process held before it."""

from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path


def peak_megabytes(call: Callable[..., object], *arguments: object) -> float:
    """The most megabytes that a call takes above its start, in a new process.

    New and not forked: threads of a library (rensa's, for one) do not survive a fork, and the
    child would wait for them for ever. The call must be a function of a module.
    """
    context = get_context("spawn")
    queue: SimpleQueue[float] = context.SimpleQueue()
    child = context.Process(target=_measured, args=(queue, call, arguments))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"the measured call ended with exit code {child.exitcode}")
    return round(queue.get(), 1)


def _measured(
    queue: "SimpleQueue[float]", call: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    queue.put(growth(partial(call, *arguments)))


def growth(call: Callable[[], object]) -> float:
    """The most megabytes that a call takes above its start, in this process."""
    # Writing 5 sets the peak back to what is held now (man 5 proc).
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = most_megabytes()
    call()
    return most_megabytes() - before


def most_megabytes() -> float:
    """The most memory that this process ever held, in MB.

    Not `ru_maxrss`, which begins at what the process held that forked this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no VmHWM")
