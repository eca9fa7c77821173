"""What a night reads first: wrong params are told before it takes anything in."""

import shutil
from pathlib import Path

import pytest

from flows.nightly import refresh
from flows.run_state import NightLog
from flows.workspace import Workspace
from tasks.stage.errors import ConfigError


def workspace(folder: Path, file: str, old: str, new: str) -> Workspace:
    """A checkout of params alone, with one of them changed."""
    shutil.copytree("params", folder / "params")
    path = folder / "params" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return Workspace(folder, folder, ())


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "promotion.yaml",
            "severity: refuse, max_over_base: 1.5}",
            "severity: refuse, max_over_base: 1.5, max_p95_ms: 800.0}",
            r"promotion\.yaml: rules\.latency: .*max_p95_ms is gone",
        ),
        ("promotion.yaml", "power: 0.8", "power: 8.0", r"promotion\.yaml: power"),
        ("release.yaml", "staging: automatic", "staging: sometimes", r"release\.yaml: staging"),
        ("night.yaml", "stage_hours: 24.0", "stage_hours: 0.0", r"night\.yaml: stage_hours"),
        ("judging.yaml", "model: null", "model: 3", r"judging\.yaml: model"),
    ],
)
def test_params_that_are_used_at_the_end_are_read_before_anything_begins(
    tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    place = workspace(tmp_path, file, old, new)
    with pytest.raises(ConfigError, match=said):
        refresh(place, NightLog(place, "night"))
    assert not (tmp_path / "data").exists()
