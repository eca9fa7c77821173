"""What a night reads first: wrong params are told before it takes anything in."""

import shutil
from pathlib import Path

import pytest

from flows.nightly import refresh, refused
from flows.nights import NightLog
from flows.workspace import Workspace
from tasks.stage.errors import ConfigError, GateError


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
            "severity: warn, max_over_base: 1.5, max_p95_ms: null",
            "severity: refuse, max_over_base: 1.5, max_p95_ms: 800.0",
            r"promotion\.yaml: rules\.latency\.severity.*may only warn.*`severity: warn`",
        ),
        ("promotion.yaml", "power: 0.8", "power: 8.0", r"promotion\.yaml: power"),
        ("release.yaml", "staging: automatic", "staging: sometimes", r"release\.yaml: staging"),
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


def test_a_night_that_a_gate_refused_says_what_to_do(tmp_path: Path) -> None:
    place = workspace(tmp_path, "judging.yaml", "model: null", "model: null")
    log = NightLog(place, "night")
    log.plan(["validation", "curation"])
    log.start("curation")
    refused(log, GateError("93 of 100 rows were removed", "look at them, or let it through"))
    assert log.now.verdict == "refused"
    assert log.now.reasons == [
        "93 of 100 rows were removed", "what to do: look at them, or let it through"
    ]  # fmt: skip
    assert {entry.name: entry.state for entry in log.now.stages}["curation"] == "failed"
