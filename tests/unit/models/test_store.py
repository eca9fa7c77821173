"""A model comes in by name, from a folder or the hub, and never with code or pickles."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.stage.errors import ConfigError
from tests.builders.known_templates import rendered_here
from tests.unit.conftest import Tiny


@pytest.fixture(autouse=True)
def _known_templates() -> Iterator[None]:
    with rendered_here():
        yield


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder."""
    weights = ModelManifest.read(tiny.base).folder(tiny.store)
    return Path(shutil.copytree(weights, tmp_path / "model"))


def test_the_same_source_gives_the_same_digest(tmp_path: Path, tiny: Tiny) -> None:
    again = convert("tiny:llama", None, "causal_lm", tmp_path / "store")
    assert again == ModelManifest.read(tiny.base)


def test_a_local_folder_is_copied_under_its_digest(folder: Path, tmp_path: Path) -> None:
    manifest = convert(str(folder), None, "causal_lm", tmp_path / "store")
    assert (manifest.folder(tmp_path / "store") / "model.safetensors").is_file()
    assert manifest.name == "model"


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match=r"pickled weights \(pytorch_model\.bin\)") as caught:
        convert(str(folder), None, "causal_lm", tmp_path / "store")
    assert "safetensors" in caught.value.remedy
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("how", ["file", "auto_map"])
def test_code_of_its_own_is_refused(folder: Path, tmp_path: Path, how: str) -> None:
    if how == "file":
        (folder / "modeling_mine.py").write_text("import os")
    else:
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="code of its own"):
        convert(str(folder), None, "causal_lm", tmp_path / "store")


def test_a_folder_without_safetensors_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no \.safetensors file"):
        convert(str(folder), None, "causal_lm", tmp_path / "store")


def test_a_hub_model_needs_a_pinned_commit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="commit of 40 hex digits"):
        convert("hub:owner/name", "main", "causal_lm", tmp_path / "store")


def test_an_unknown_embedded_name_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smollm2-135m-instruct"):
        convert("embedded:gpt", None, "causal_lm", tmp_path / "store")


def test_missing_weights_say_how_to_get_them(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are not in") as caught:
        ModelManifest.read(tiny.base).folder(tmp_path)
    assert "nightloom run" in caught.value.remedy
