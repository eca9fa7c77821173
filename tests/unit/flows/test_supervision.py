"""A server or worker that ends by itself is started again, and not for ever."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.supervision import GaveUpError, Supervision


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Child:
    """A process that is alive until it is told how it ended."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code

    def poll(self) -> int | None:
        return self.code


class Kept:
    """A worker and a server that never were, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.children: dict[str, Any] = {"mlflow": Child(), "worker": Child()}
        self.started: list[tuple[str, float]] = []
        kept: dict[str, subprocess.Popen[str]] = self.children
        self.supervision = Supervision(
            kept, self.start, lambda name: Path(f"{name}.log"), self.clock
        )

    def start(self, name: str) -> list[str]:
        self.started.append((name, self.clock.now))
        self.children[name] = Child()
        return ["a night runs again"] if name == "worker" else []

    def die(self, name: str, code: int = 1) -> list[str]:
        self.children[name].code = code
        return self.supervision.look()

    def wait(self, seconds: float) -> list[str]:
        self.clock.now += seconds
        return self.supervision.look()


def test_who_dies_is_started_again_after_a_wait_that_doubles() -> None:
    kept = Kept()
    assert kept.supervision.look() == []
    assert "mlflow ended by itself with exit code -9" in kept.die("mlflow", -9)[0]
    assert kept.wait(0.9) == []
    assert kept.wait(0.1) == ["mlflow is started again"]
    assert "started again in 2 s" in kept.die("mlflow")[0]
    assert kept.wait(1.9) == []
    assert kept.wait(0.1) == ["mlflow is started again"]
    assert kept.started == [("mlflow", 101.0), ("mlflow", 103.0)]


def test_five_deaths_in_ten_minutes_are_the_end_and_name_the_log() -> None:
    kept = Kept()
    for _ in range(4):
        kept.die("worker")
        assert kept.wait(120) == ["a night runs again", "worker is started again"]
    with pytest.raises(GaveUpError, match=r"worker ended by itself 5 times in 8 min") as caught:
        kept.die("worker", 7)
    assert "exit code 7" in caught.value.message
    assert "worker.log" in caught.value.remedy


def test_deaths_of_longer_ago_and_of_others_do_not_count() -> None:
    kept = Kept()
    for _ in range(12):
        kept.die("worker")
        kept.wait(151)
    for _ in range(4):
        kept.die("mlflow")
        kept.wait(60)
    assert len(kept.started) == 16
