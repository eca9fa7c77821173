"""A benchmark's last line says who was faster, and by how much."""

import json
import time

import pytest

from tests.benchmarks._measurement import measure, print_result, print_tasks


def test_a_ratio_above_one_means_that_we_are_faster(capsys: pytest.CaptureFixture[str]) -> None:
    peers = {"slow": lambda: time.sleep(0.02)}
    seconds = measure(lambda: time.sleep(0.002), peers, repeats=3)
    print_result("sleep", seconds, {"same": True})
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "sleep"
    assert result["ratios"]["slow"] > 2
    assert result["spread"]["slow"][0] <= result["ratios"]["slow"] * 1.5
    assert result["figures"]["same"] is True


def test_each_task_is_told_beside_its_own_peer(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = {
        "a": {"ours": [1.0, 2.0, 4.0], "a": [4.0, 4.0, 4.0]},
        "b": {"ours": [8.0] * 3, "b": [4.0, 4.0, 4.0]},
    }
    print_tasks("both", tasks, {"recall": 1.0})
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratios"] == {"a": 2.0, "b": 0.5}
    assert result["spread"] == {"a": [1.0, 4.0], "b": [0.5, 0.5]}
    assert result["figures"]["median_seconds"]["b"] == {"ours": 8.0, "theirs": 4.0}
