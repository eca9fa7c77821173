"""What a soak calls flat, and what it does not."""

import pytest

from tests.soak import Measured, grown


@pytest.mark.parametrize(
    ("disk", "files", "told"),
    [
        (0.0, 0.0, []),
        (0.05, 0.0, []),
        (1.9, 0.0, []),
        (2.1, 0.0, ["disk_mb"]),
        (0.0, 1.0, ["open_files"]),
    ],
)
def test_what_grows_with_each_night_is_told(disk: float, files: float, told: list[str]) -> None:
    nights = [
        Measured(night, 0, "unchanged", 1.0, 100 + disk * night, 500.0, int(200 + files * night))
        for night in range(100)
    ]
    assert [text.split(":")[0] for text in grown(nights)] == told
