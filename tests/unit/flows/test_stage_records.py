"""What DVC records of a stage whose inputs changed while it ran does not stay."""

from pathlib import Path

import pytest

from flows.graph import read_stage
from flows.stage_records import check_unchanged, note_begin, undo_unchecked
from tasks.orchestration.stages import Stage
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError
from tests.builders.dvc_project import ran_project, repro

pytestmark = pytest.mark.slow
PIPELINE = """
stages:
  first:
    cmd: mkdir data/first && cp params/first.yaml data/first && sh meanwhile.sh
    deps: [data/raw, code]
    params: [{params/first.yaml: }]
    outs: [data/first]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose stage ran with `share: 1`."""
    files = {
        "params/first.yaml": "share: 1\n",
        "data/raw/rows": "a\n",
        "code/part.py": "",
        "meanwhile.sh": "",
        "dvc.yaml": PIPELINE,
    }
    return ran_project(tmp_path, files)


def begun(project: Path, meanwhile: str) -> Stage:
    """A stage that was begun with `share: 2` and ran, and what happened while it did."""
    (project / "params" / "first.yaml").write_text("share: 2\n")
    (project / "meanwhile.sh").write_text(meanwhile)
    stage = read_stage(project, "first")
    note_begin(project, stage)
    repro(project)
    (project / "meanwhile.sh").write_text("")
    return stage


@pytest.mark.parametrize(
    ("meanwhile", "named"),
    [("echo 'share: 3' > params/first.yaml", "params/first.yaml"), ("touch code/new.py", "code")],
)
def test_what_changed_while_a_stage_ran_is_named_and_the_stage_runs_again(
    meanwhile: str, named: str, project: Path
) -> None:
    stage = begun(project, meanwhile)
    assert read_stage(project, "first").current, "DVC records what is true now"
    with pytest.raises(ConfigError, match=f"first: {named} changed while it ran"):
        check_unchanged(project, stage)
    assert not read_stage(project, "first").current
    assert "Running stage 'first':" in repro(project)
    assert (project / "data/first/first.yaml").read_text() == (
        project / "params/first.yaml"
    ).read_text()


def test_the_outs_of_before_come_back(project: Path) -> None:
    stage = begun(project, "echo 'share: 3' > params/first.yaml")
    with pytest.raises(ConfigError):
        check_unchanged(project, stage)
    run_child(["python", "-m", "dvc", "checkout", "--force", "first"], project)
    assert (project / "data/first/first.yaml").read_text() == "share: 1\n"


def test_a_change_that_was_not_seen_since_the_night_was_killed_is_seen_by_the_next(
    project: Path,
) -> None:
    begun(project, "echo 'share: 3' > params/first.yaml")
    told = undo_unchecked(project, "first")
    assert told == "first changed while it ran in a night that was killed: it runs again"
    assert undo_unchecked(project, "first") is None
    assert "Running stage 'first':" in repro(project)


def test_a_stage_whose_inputs_stay_is_current(project: Path) -> None:
    stage = begun(project, "")
    check_unchanged(project, stage)
    assert undo_unchecked(project, "first") is None
    assert read_stage(project, "first").current


def test_a_stage_that_was_killed_before_it_was_recorded_is_left_alone(project: Path) -> None:
    (project / "params" / "first.yaml").write_text("share: 2\n")
    note_begin(project, read_stage(project, "first"))
    assert undo_unchecked(project, "first") is None
    assert not read_stage(project, "first").current
    (project / "params" / "first.yaml").write_text("share: 1\n")
    assert read_stage(project, "first").current
