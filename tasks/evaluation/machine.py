"""The machine that a measurement was taken on."""

import os
import platform
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Processor, cores, the device used and the Python version."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's model where the system tells it, else its architecture."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
