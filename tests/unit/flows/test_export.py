"""`nightloom export` finds a version by number or alias, and a child writes it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.export import find_version
from flows.environment import find_stores
from tasks.registry.client import Registry
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import verified
from tests.builders.uploads import add_version


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, released: Path, tiny: Any) -> Iterator[Path]:
    """A project whose registry holds one adapter, version 1, in staging."""
    root = tmp_path_factory.mktemp("exporting")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        _register(root, released, tiny)
        yield root


def _register(root: Path, released: Path, tiny: Any) -> None:
    (root / ".nightloom").mkdir()
    (root / "params").symlink_to(Path("params").resolve())
    for name in ("prefect.yaml", "dvc.yaml"):
        (root / name).symlink_to(Path(name).resolve())
    (root / ".nightloom" / "models").symlink_to(tiny.store)
    (root / "model" / "artifacts").mkdir(parents=True)
    (root / "model" / "artifacts" / "bundle").symlink_to(released)
    client = MlflowClient(find_stores(root).tracking_uri)
    client.create_registered_model("nightloom-adapter")
    add_version(client, "adapter", root / "model", root / ".nightloom" / "artifacts")
    client.set_registered_model_alias("nightloom-adapter", "staging", "1")


@pytest.mark.slow
def test_a_version_leaves_by_its_alias_as_a_model_that_loads_alone(
    checkout: Path, tmp_path: Path
) -> None:
    target = tmp_path / "to"
    options = ["staging", "--to", str(target), "--root", str(checkout), "--json"]
    done = CliRunner().invoke(app, ["export", *options])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["version"], told["model"], told["format"]) == (1, "adapter", "safetensors")
    assert told["agreeing"] == 1
    assert json.loads((verified(target) / "export.json").read_text())["name"] == (
        "nightloom-adapter-1"
    )
    assert AutoModelForCausalLM.from_pretrained(target).config.model_type == "llama"
    again = CliRunner().invoke(app, ["export", *options])
    assert again.exit_code == 1
    assert "not an empty folder" in json.loads(again.stdout)["error"]["message"]


def test_a_version_that_does_not_exist_is_refused_with_those_that_do(checkout: Path) -> None:
    registry = Registry(find_stores(checkout))
    assert find_version(registry, "adapter", "1") == find_version(registry, "adapter", "staging")
    for which in ("2", "0", "-1", "production", "Staging", "one"):
        with pytest.raises(
            ConfigError, match=f"'{which}' is no version of nightloom-adapter; found: 1, staging"
        ):
            find_version(registry, "adapter", which)
    with pytest.raises(ConfigError, match="no version of nightloom-student; found: none"):
        find_version(registry, "student", "1")
