"""The memory of a device: what this process holds, held at most, and has left."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

# The most bytes held since it was begun.
ReadPeak = Callable[[], int]

_PEAK_NOW = "5"  # sets the peak of resident memory back to what is held now (man 5 proc)


def begin_peak(device: torch.device) -> ReadPeak | None:
    """Return what reads the most bytes held since now, None where the device does not tell.

    On a CPU it is the process's resident memory, libraries included, which only Linux tells.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return partial(torch.cuda.max_memory_allocated, device)
    try:
        _CLEAR.write_text(_PEAK_NOW, encoding="ascii")
    except OSError:
        return None
    return _resident_peak


def _resident_peak() -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024  # kibibytes, called kB there


def held_bytes(device: torch.device) -> int:
    """Return what this process holds of a device's memory now."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """Return the most that this process held of a device so far; on a CPU what it holds now."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return held_bytes(device)


def free_bytes(device: torch.device) -> int:
    """Return what a device has left for this process."""
    if device.type == "cuda":
        # torch keeps what it freed for itself.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    return int(psutil.virtual_memory().available)


def release_memory() -> None:
    """Give back what models held that are no longer there."""
    gc.collect()
    psutil.heap_trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
