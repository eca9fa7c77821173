"""The most memory held: what came and went since is told, what came before is not."""

from pathlib import Path

import pytest
import torch

from tasks.models import memory as peak
from tasks.models.memory import begin_peak

CPU = torch.device("cpu")
_MEGABYTES = 200


def hold(megabytes: int) -> None:
    bytearray(b"\1") * (megabytes * 1_000_000)


def test_what_came_and_went_is_told_and_forgotten_at_the_next_beginning() -> None:
    read_peak = begin_peak(CPU)
    assert read_peak
    before = read_peak()
    hold(_MEGABYTES)
    grown = read_peak() - before
    assert _MEGABYTES * 0.9e6 < grown < _MEGABYTES * 1.5e6
    read_peak = begin_peak(CPU)
    assert read_peak
    assert read_peak() < before + _MEGABYTES * 0.5e6


def test_a_system_that_does_not_tell_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "_CLEAR", tmp_path / "none" / "clear_refs")
    assert not begin_peak(CPU)
