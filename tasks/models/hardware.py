"""What the hardware is slow at, in one line: `python -m tasks.models.hardware --dtype NAME`."""

import argparse
import logging
import sys
from pathlib import Path

import torch

LOGGER = logging.getLogger(__name__)
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def slow_dtype(dtype: str, device: torch.device) -> str | None:
    """Return why a dtype is slow on a device, None where it is not."""
    if dtype != "bfloat16":
        return None
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if native else "this GPU emulates bfloat16; set dtype: float32"
    if _FAST_BFLOAT16 & cpu_flags():
        return None
    return (
        "this CPU has neither AVX512_BF16 nor AMX, so bfloat16 takes about twice the time of "
        "float32; set dtype: float32"
    )


def warn_of_slow_dtype(dtype: str, device: torch.device) -> None:
    """Log why a dtype is slow on a device, where it is."""
    reason = slow_dtype(dtype, device)
    if reason is not None:
        LOGGER.warning("%s", reason)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return what the kernel says that the CPU can do; empty where it says nothing."""
    if not path.exists():
        return set()
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code, 0; the device and what it is slow at are printed."""
    parser = argparse.ArgumentParser(prog="python -m tasks.models.hardware", description=__doc__)
    parser.add_argument("--dtype", required=True, help="what finetuning computes in")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"cpu, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(0)
    reason = slow_dtype(options.dtype, device)
    print(f"{name}; {reason}" if reason else name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
