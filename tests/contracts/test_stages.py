"""The contract between dvc.yaml, the params and the packages of the stages."""

import dataclasses
import importlib
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from tasks.stage.params import load_params

PIPELINE = yaml.safe_load(Path("dvc.yaml").read_text())
PATHS = yaml.safe_load(Path("params/paths.yaml").read_text())
STAGES = list(PIPELINE["stages"])
UNTRACKED = {"params/compute.yaml"}
# Not outs and not deps: scratch is never either, and the store is named by the base's manifest.
FREE = {"scratch", "model_store"}


@dataclass(frozen=True)
class Command:
    """A stage's command line, taken apart."""

    params: list[str]
    options: dict[str, str]


def command(stage: str) -> Command:
    words = shlex.split(PIPELINE["stages"][stage]["cmd"])
    assert words[:3] == ["python", "-m", f"tasks.{stage}"]
    found: dict[str, list[str]] = {}
    for word in words[3:]:
        if word.startswith("--"):
            found[word[2:]] = []
        else:
            found[list(found)[-1]].append(word)
    params = found.pop("params")
    return Command(params, {name: value for name, [value] in found.items()})


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("tasks", include_external_packages=False, cache_dir=None)


def packages(stage: str) -> set[str]:
    """The packages below tasks/ that a stage imports, itself included."""
    modules = graph().find_descendants(f"tasks.{stage}") | {f"tasks.{stage}"}
    for module in list(modules):
        modules |= graph().find_upstream_modules(module)
    return {"/".join(module.split(".")[:2]) for module in modules if "." in module}


def module(stage: str) -> Any:
    return importlib.import_module(f"tasks.{stage}.__main__")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_packages_that_the_stage_imports(stage: str) -> None:
    deps = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("tasks/")}
    assert deps == packages(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_params_file_of_the_command_is_tracked_but_compute(stage: str) -> None:
    tracked = {name for entry in PIPELINE["stages"][stage]["params"] for name in entry}
    assert tracked == set(command(stage).params) - UNTRACKED


@pytest.mark.parametrize("stage", STAGES)
def test_options_are_named_as_in_paths(stage: str) -> None:
    for name, value in command(stage).options.items():
        assert value == f"${{{name}}}"
        assert name in PATHS


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_read_is_a_dep_and_what_is_written_is_an_out(stage: str) -> None:
    entry = PIPELINE["stages"][stage]
    fields = {
        item.name: item
        for item in dataclasses.fields(module(stage).Paths)
        if not item.metadata.get("named")  # for the command line alone
    }
    assert set(fields) == set(command(stage).options)
    for name, item in fields.items():
        if name not in FREE:
            place = "outs" if item.metadata.get("output") else "deps"
            assert f"${{{name}}}" in entry[place], f"{stage}: --{name} is not among its {place}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_in_the_repository_are_valid(stage: str) -> None:
    files = [Path(name) for name in command(stage).params]
    params = load_params(module(stage).Params, files)
    assert set(type(params).model_fields) == {path.stem for path in files}


@pytest.mark.parametrize("preset", sorted(Path("params/presets").glob("*.yaml")), ids=str)
def test_a_preset_names_params_that_exist(preset: Path) -> None:
    from flows.overrides import read_overrides

    assert read_overrides(Path(), preset.stem, [])


@pytest.mark.parametrize("stage", STAGES)
def test_whole_files_of_params_are_tracked(stage: str) -> None:
    """What compares a version's params with today's takes them by file."""
    entries = PIPELINE["stages"][stage]["params"]
    assert [keys for entry in entries for keys in entry.values() if keys is not None] == []
