"""A night that trains search's embedder: it is kept, released and asked with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.embedding.adapter import ADAPTER_FOLDER, MANIFEST_FILE
from tasks.models.manifest import ModelManifest
from tasks.retrieval.index import IndexSettings
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files
from tests.builders.aliases import make_encoder, write_rows
from tests.builders.clones import MILD, UNTIMED, nightloom
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.night, pytest.mark.timeout(2400)]

LEARNING = [
    "ingestion.sources=[{name: things, kind: files, "
    "files: {records: [records.jsonl], documents: [documents.jsonl]}}]",
    "ingestion.source_defaults.limit=null",
    "curation.validation_share=0.2",
    "curation.max_removed_share.duplicates=1.0",
    "curation.max_removed_share.leaks=1.0",
    "retriever_training.enabled=true",
    "retriever_training.learning_rate=5.0e-3",
    "retriever_training.epochs=15",
    "retriever_training.batch_pairs=16",
    "retriever_training.gate.least_questions=8",
]


@dataclass(frozen=True)
class Learned:
    """A clone after its night, the options of it, and the night's report."""

    checkout: Path
    options: list[str]
    night: dict[str, Any]

    @property
    def data(self) -> Path:
        [found] = self.checkout.glob(".nightloom/workspaces/*/data")
        return found


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    from tasks.models.tiny import make_tiny

    root = tmp_path_factory.mktemp("retriever")
    clone = Clone.make(Path(), root / "checkout").root
    write_rows(clone, 24)
    (root / "tiny").mkdir()
    make_tiny("llama", root / "tiny")
    make_encoder(root / "encoder", root / "tiny")
    settings = [*LEARNING, f"models.embedder.source={root / 'encoder'}", *MILD, UNTIMED]
    options = ["--preset", "tiny"]
    options += [word for text in settings for word in ("--set", text)]
    done = nightloom(clone, "run", "--json", *options)
    assert done.stdout, done.stderr[-3000:]
    return Learned(clone, options, json.loads(done.stdout))


def test_what_the_embedder_learned_is_kept_and_released(learned: Learned) -> None:
    assert learned.night["error"] is None
    assert learned.night["verdict"] == "promoted"
    found = read_metrics(learned.data / "reports" / "retriever_training")
    assert (found["trained"], found["reason"]) == (True, "better")
    manifest = learned.data / "bundle" / MANIFEST_FILE
    description = ModelManifest.read(manifest)
    assert description.adapter == folder_files(manifest.with_name(ADAPTER_FOLDER))
    settings = IndexSettings.read(learned.data / "bundle" / "index")
    assert settings.embedder == description.identity
    measured = settings.weights_measured
    assert measured is not None
    assert measured.dense == pytest.approx(found["mrr"]["trained"]["value"])


def test_the_registered_version_is_asked_with_it(learned: Learned) -> None:
    done = nightloom(learned.checkout, "ask", "Where is the kebazura kept?", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["passages"]
