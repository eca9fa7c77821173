"""The most memory that this process held of a device over some time."""

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK_NOW = "5"  # sets the peak of resident memory back to what is held now (man 5 proc)


def begin_peak(device: torch.device) -> bool:
    """Whether the device tells its peak; `peak_bytes_since` then counts from here.

    On a CPU it is the process's resident memory, libraries included, which only Linux tells.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _CLEAR.write_text(_PEAK_NOW, encoding="ascii")
    except OSError:
        return False
    return True


def peak_bytes_since(device: torch.device) -> int:
    """The most that was held since `begin_peak`, which said that the device tells it."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024  # kibibytes, called kB there
