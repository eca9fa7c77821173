"""Weights that are pickled, lost, cut short or of another model are refused before any training."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.models.loading import load_adapted, load_base
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_manifest
from tests.builders.known_templates import rendered_here
from tests.unit.conftest import Tiny


@pytest.fixture(autouse=True)
def _known_templates() -> Iterator[None]:
    with rendered_here():
        yield


CPU = torch.device("cpu")
Weights = dict[str, Tensor]


def lose(weights: Weights) -> None:
    name = sorted(weights)[0]
    weights[name] = weights[name].clone()
    weights[name].view(-1)[3] = torch.nan


def cut(weights: Weights) -> None:
    name = next(name for name in sorted(weights) if weights[name].dim() == 2)
    weights[name] = weights[name][:, :-1].contiguous()


def drop(weights: Weights) -> None:
    del weights[sorted(weights)[-2]]


def rename(weights: Weights) -> None:
    name = sorted(weights)[0]
    weights[name.replace("layers.0", "layers.9")] = weights.pop(name)


def changed(path: Path, change: Callable[[Weights], None]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def adapter(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.adapter, tmp_path / "adapter"))


def serve(tiny: Tiny, adapter: Path) -> None:
    write_manifest(adapter)
    load_adapted(tiny.base, tiny.store, adapter, numeric_form="float", device=CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lose, "numbers that are not finite"),
        (cut, "size mismatch"),
        (drop, "on one side alone"),
        (rename, "on one side alone"),
    ],
)
def test_an_adapter_whose_weights_are_wrong_is_refused(
    change: Callable[[Weights], None], said: str, adapter: Path, tiny: Tiny
) -> None:
    serve(tiny, adapter)
    changed(adapter / "adapter_model.safetensors", change)
    with pytest.raises(ConfigError, match=said):
        serve(tiny, adapter)


def test_a_pickled_adapter_is_refused_and_not_loaded(adapter: Path, tiny: Tiny) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"pickled weights \(adapter_model\.bin\)"):
        serve(tiny, adapter)


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    weights = ModelManifest.read(tiny.base).folder(tiny.store)
    return Path(shutil.copytree(weights, tmp_path / "model"))


def test_a_base_with_lost_numbers_never_reaches_the_store(folder: Path, tmp_path: Path) -> None:
    changed(folder / "model.safetensors", lose)
    with pytest.raises(ConfigError, match="not finite") as caught:
        convert(str(folder), None, "causal_lm", tmp_path / "store")
    assert caught.value.remedy
    assert list((tmp_path / "store").iterdir()) == []


def test_a_base_cut_short_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="can't be read as safetensors"):
        convert(str(folder), None, "causal_lm", tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "said"), [(cut, "mismatched keys"), (drop, "missing keys"), (None, "mismatched")]
)
def test_a_base_that_is_not_what_its_config_says_is_refused(
    change: Callable[[Weights], None] | None, said: str, folder: Path, tmp_path: Path
) -> None:
    if change is None:
        config = json.loads((folder / "config.json").read_text())
        config["intermediate_size"] *= 2
        (folder / "config.json").write_text(json.dumps(config))
    else:
        changed(folder / "model.safetensors", change)
    store, manifest = tmp_path / "store", tmp_path / "base.json"
    convert(str(folder), None, "causal_lm", store).write(manifest)
    with pytest.raises(ConfigError, match=said):
        load_base(manifest, store, numeric_form="float", device=CPU)


def test_a_base_without_a_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    store, manifest = tmp_path / "store", tmp_path / "base.json"
    convert(str(folder), None, "causal_lm", store).write(manifest)
    with pytest.raises(ConfigError, match="no chat template"):
        load_base(manifest, store, numeric_form="float", device=CPU)
