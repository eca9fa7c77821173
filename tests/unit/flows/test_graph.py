"""The graph as flows read it, on a real DVC project of two stages."""

from pathlib import Path

import pytest

from flows.graph import has_remote, read_current, read_stage, stage_names
from tasks.services.processes import run_child
from tasks.stage.errors import ConfigError

PIPELINE = """
stages:
  second:
    cmd: cp -r data/first data/reports/second
    deps: [data/first]
    outs: [data/reports/second]
  first:
    cmd: cp -r data/raw data/first
    deps: [data/raw]
    params: [{params/first.yaml: }]
    outs: [data/first]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "first.yaml").write_text("share: 1\n")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "reports").mkdir()
    (tmp_path / "data" / "raw" / "rows").write_text("a\n")
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    return tmp_path


def repro(project: Path, name: str) -> list[str]:
    command = ["python", "-m", "dvc", "repro", "--single-item", name]
    child = run_child(command, project)
    assert child.code == 0, child.lines
    return list(child.lines)


def test_a_stage_comes_after_those_it_reads_from(project: Path) -> None:
    assert stage_names(project) == ("first", "second")


@pytest.mark.slow
def test_a_stage_is_current_once_it_ran_and_no_longer_when_a_param_changed(project: Path) -> None:
    before = read_stage(project, "first")
    assert not before.current
    repro(project, "first")
    ran = read_stage(project, "first")
    assert ran.current
    assert ran.key == before.key
    assert read_current(project, ["first", "second"]) == {"first": ran}, "second never ran"
    assert read_current(project, ["second", "first"]) == {}, "nothing after one that is not"
    (project / "params" / "first.yaml").write_text("share: 2\n")
    changed = read_stage(project, "first")
    assert not changed.current
    assert changed.key != before.key


def test_the_key_follows_the_bytes_of_a_dependency(project: Path) -> None:
    before = read_stage(project, "first").key
    (project / "data" / "raw" / "rows").write_text("b\n")
    assert read_stage(project, "first").key != before


@pytest.mark.slow
def test_a_missing_out_makes_a_stage_not_current(project: Path) -> None:
    repro(project, "first")
    (project / "data" / "first" / "rows").unlink()
    assert not read_stage(project, "first").current


def test_reports_are_the_outs_below_reports(project: Path) -> None:
    assert read_stage(project, "second").reports == ("data/reports/second",)
    assert read_stage(project, "first").reports == ()


def test_without_a_git_repository_the_error_says_what_to_do(project: Path) -> None:
    (project / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(ConfigError, match="git init"):
        stage_names(project)


def test_an_unknown_stage_is_named(project: Path) -> None:
    with pytest.raises(ConfigError, match="no stage 'third'"):
        read_stage(project, "third")


def test_a_remote_is_there_only_when_configured(project: Path) -> None:
    assert not has_remote(project)
    config = project / ".dvc" / "config"
    settings = ["[core]", "    no_scm = true", "    remote = far", "['remote \"far\"']"]
    config.write_text("\n".join([*settings, "    url = /far", ""]))
    assert has_remote(project)
