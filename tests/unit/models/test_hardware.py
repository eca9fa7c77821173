"""What hardware is slow at is said, and said only then."""

from pathlib import Path

import pytest
import torch

from tasks.models import hardware

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "is_slow"),
    [("fpu avx2", True), ("fpu avx512_bf16", False), ("amx_bf16 avx2", False), ("", True)],
)
def test_bfloat16_is_slow_without_instructions_for_it(
    flags: str,
    is_slow: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    found = hardware.cpu_flags(path)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: found)
    assert (hardware.slow_dtype("bfloat16", CPU) is not None) == is_slow
    assert hardware.slow_dtype("float32", CPU) is None
    for dtype in ("float32", "bfloat16"):
        hardware.warn_of_slow_dtype(dtype, CPU)
    assert [line.count("bfloat16 takes") for line in caplog.messages] == [1] * is_slow


def test_the_command_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware.main(["--dtype", "float32"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
