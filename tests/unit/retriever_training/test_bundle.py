"""What the embedder learned is in the bundle, by hash, and is what the bundle is searched with."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.answering.loading import load_answerer
from tasks.embedding.adapter import ADAPTER_FOLDER, GAIN_FILE, MANIFEST_FILE
from tasks.models.manifest import ModelManifest
from tasks.records.schema import Message
from tasks.stage.errors import DataError
from tasks.stage.outputs import folder_files, write_manifest
from tests.builders.packaging import package, packaging_params
from tests.unit.conftest import Tiny, score_night

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Trained(Tiny):
    """The tiny models, searched with an embedder that was trained."""

    learned: Path

    @property
    def retriever(self) -> Path:
        return self.learned / "retriever"


@pytest.fixture(scope="package")
def bundle(
    learned: Path,
    tiny: Any,
    prompting: Any,
    models: Any,
    compute: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle of the tiny models whose embedder was trained."""
    root = tmp_path_factory.mktemp("bundle")
    night = Trained(tiny.root, learned)
    shared = {"prompting": prompting, "models": models, "compute": compute}
    scored = score_night(root, night, tiny.curated, shared)
    params = packaging_params(prompting, models, compute)
    return package(root / "packaged", params, night, scored.index, scored.report)


def test_the_bundle_holds_what_was_learned_and_answers_with_it(
    bundle: Path, learned: Path, tiny: Any
) -> None:
    for name in (MANIFEST_FILE, GAIN_FILE):
        assert (bundle / name).read_bytes() == (learned / "retriever" / name).read_bytes()
    description = ModelManifest.read(bundle / MANIFEST_FILE)
    assert description.adapter == folder_files(bundle / ADAPTER_FOLDER)
    answerer = load_answerer(bundle, tiny.store, "adapter")
    assert answerer.embedder.digest == answerer.index.settings.embedder == description.identity
    [answer] = answerer.answer([[Message("user", "What does mod.f3 do?")]])
    assert answer.passages


def test_its_card_says_what_was_learned_and_gained(bundle: Path) -> None:
    card = " ".join((bundle / "README.md").read_text().split())
    assert "learned from questions and passages of this data" in card
    assert "on 9 validation questions its recall at 1 is" in card


def test_a_bundle_without_what_was_learned_answers_nothing(
    tmp_path: Path, bundle: Path, tiny: Any
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    shutil.rmtree(copy / ADAPTER_FOLDER)
    with pytest.raises(DataError, match=ADAPTER_FOLDER):
        load_answerer(copy, tiny.store, "adapter")
    write_manifest(copy)  # whoever seals it anew does not get the base for it
    with pytest.raises(DataError, match="is not the adapter that embedder"):
        load_answerer(copy, tiny.store, "adapter")
