"""A benchmark's last line says who was faster, and by how much."""

import json
import time

import pytest

from tests.benchmarks._measurement import measure, print_result


def test_a_ratio_above_one_means_that_we_are_faster(capsys: pytest.CaptureFixture[str]) -> None:
    peers = {"slow": lambda: time.sleep(0.02)}
    seconds = measure(lambda: time.sleep(0.002), peers, repeats=3)
    print_result("sleep", seconds, {"same": True})
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["benchmark"] == "sleep"
    assert result["ratios"]["slow"] > 2
    assert result["spread"]["slow"][0] <= result["ratios"]["slow"] * 1.5
    assert result["figures"]["same"] is True
