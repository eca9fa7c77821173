"""The trained embedder is kept where it finds more, and is then the one that searches."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.embedding.adapter import ADAPTER_FOLDER, MANIFEST_FILE
from tasks.embedding.embedder import Embedder
from tasks.indexing.params import Params as IndexingParams
from tasks.models.manifest import ModelManifest
from tasks.records.schema import read_records, write_records
from tasks.retriever_training import __main__ as stage
from tasks.retriever_training import training
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, write_manifest
from tasks.stage.params import read_yaml
from tests.builders.indexes import index_into
from tests.builders.retriever import LEARNED, retriever_params, train_into

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def test_off_it_hands_the_base_embedder_on(
    tmp_path: Path, tiny: Any, prompting: Any, compute: Any
) -> None:
    folder = train_into(tmp_path, retriever_params(prompting, compute), tiny)
    assert set(folder_files(folder)) == {MANIFEST_FILE}
    assert (folder / MANIFEST_FILE).read_bytes() == tiny.embedder.read_bytes()
    assert read_metrics(tmp_path / "report")["reason"] == "off"


def test_what_it_learned_is_kept_where_it_finds_more(learned: Path, tiny: Any) -> None:
    found = read_metrics(learned / "report")
    assert (found["trained"], found["reason"]) == (True, "better")
    assert found["recall_at_1"]["difference"]["low"] > 0
    assert found["pairs"]["learned"] > found["pairs"]["held_out"] > 0
    manifest = learned / "retriever" / MANIFEST_FILE
    description = ModelManifest.read(manifest)
    assert description.adapter == folder_files(manifest.with_name(ADAPTER_FOLDER))
    assert description.identity != ModelManifest.read(tiny.embedder).identity
    report = (learned / "report" / "report.md").read_text()
    assert "Search uses the trained embedder" in report
    assert "trained less base" in report


def test_equal_data_give_equal_bytes(
    tmp_path: Path, learned: Path, tiny: Any, prompting: Any, compute: Any
) -> None:
    train_into(tmp_path, retriever_params(prompting, compute, **LEARNED), tiny)
    for name in ("retriever", "report"):
        assert folder_files(tmp_path / name) == folder_files(learned / name)


def test_a_training_cut_short_goes_on_to_the_same_bytes(
    tmp_path: Path,
    learned: Path,
    tiny: Any,
    prompting: Any,
    compute: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = retriever_params(prompting, compute, **LEARNED)
    steps = read_metrics(learned / "report")["training"]["steps"]
    calls = 0
    own = training.pair_loss

    def stopping(model: Any, pack: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += model.training
        if calls > steps // 2 + 4:  # a few are tried before, for the memory they take
            raise KeyboardInterrupt
        return own(model, pack, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(training, "pair_loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_into(tmp_path, params, tiny)
    assert list((tmp_path / "scratch" / "checkpoints").rglob("checkpoint-*"))
    train_into(tmp_path, params, tiny)
    assert folder_files(tmp_path / "retriever") == folder_files(learned / "retriever")
    assert not (tmp_path / "scratch" / "checkpoints").exists()


def test_it_is_left_out_where_it_finds_no_more(
    tmp_path: Path, tiny: Any, prompting: Any, compute: Any
) -> None:
    params = retriever_params(prompting, compute, **LEARNED | {"learning_rate": 1e-7, "epochs": 1})
    folder = train_into(tmp_path, params, tiny)
    assert set(folder_files(folder)) == {MANIFEST_FILE}
    assert (folder / MANIFEST_FILE).read_bytes() == tiny.embedder.read_bytes()
    found = read_metrics(tmp_path / "report")
    assert (found["trained"], found["reason"]) == (False, "not_better")
    assert found["recall_at_1"]["difference"]["low"] <= 0
    assert "what it learned is left out" in (tmp_path / "report" / "report.md").read_text()


def test_with_few_questions_nothing_is_trained(
    tmp_path: Path, tiny: Any, prompting: Any, compute: Any
) -> None:
    params = retriever_params(prompting, compute, {"least_questions": 50}, **LEARNED)
    train_into(tmp_path, params, tiny)
    found = read_metrics(tmp_path / "report")
    assert (found["reason"], found["questions"]) == ("too_few", 9)
    assert "training" not in found


def test_documents_without_questions_give_spans_to_learn_and_to_ask(
    tmp_path: Path, tiny: Any, prompting: Any, compute: Any
) -> None:
    from tasks.records.schema import Document, write_documents

    curated = tmp_path / "curated"
    shutil.copytree(tiny.curated, curated)
    for split in ("train", "validation", "test"):
        write_records(
            curated / f"{split}.jsonl",
            [replace(row, documents=()) for row in read_records(curated / f"{split}.jsonl")],
        )
    texts = (
        f"Return thing{at} of the number{at}. Then stop number{at} and rest. Do thing{at} again."
        for at in range(60)
    )
    documents = [Document(f"d{at}", text, "", "test", "CC0") for at, text in enumerate(texts)]
    write_documents(curated / "documents.jsonl", documents)
    write_manifest(curated)
    wide = prompting.model_copy(update={"passage_words": 40})
    changes = LEARNED | {"pairs": "spans", "epochs": 1}
    with pytest.raises(DataError, match=r"give 0 pairs .* training records that name a document"):
        train_into(tmp_path, retriever_params(wide, compute, **LEARNED), tiny, curated=curated)
    train_into(tmp_path, retriever_params(wide, compute, **changes), tiny, curated=curated)
    found = read_metrics(tmp_path / "report")
    assert found["questions_are_spans"]
    assert found["questions"] + found["pairs"]["learned"] + found["pairs"]["held_out"] == 60


def test_an_embedder_that_no_adapter_can_stand_on_is_refused_by_name(
    tmp_path: Path, tiny: Any, prompting: Any, compute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = retriever_params(prompting, compute, **LEARNED)
    with monkeypatch.context() as patch:
        patch.setattr(training, "decoder_linears", lambda _: [])
        with pytest.raises(ConfigError, match=r"bert \(BertModel\) has no linear layer"):
            train_into(tmp_path, params, tiny)
    description = ModelManifest.read(tiny.embedder)
    store = tmp_path / "store"
    folder = store / description.digest
    shutil.copytree(description.folder(tiny.store), folder)
    shutil.copytree(ModelManifest.read(tiny.base).folder(tiny.store), store / "base")
    (folder / "engine.json").write_text(json.dumps({"distribution": "x", "version": "1"}))
    moved = replace(ModelManifest.read(tiny.base), digest="base")
    moved.write(tmp_path / "base.json")
    paths = stage.Paths(
        curated=tiny.curated,
        base=tmp_path / "base.json",
        embedder=tiny.embedder,
        model_store=store,
        scratch=tmp_path / "scratch",
        retriever=tmp_path / "retriever",
        retriever_training_report=tmp_path / "report",
    )
    with pytest.raises(ConfigError, match="bert is computed by x, and no LoRA adapter"):
        stage.run(params, paths)


def test_a_changed_adapter_is_not_searched_with(tmp_path: Path, learned: Path, tiny: Any) -> None:
    folder = tmp_path / "retriever"
    shutil.copytree(learned / "retriever", folder)
    path = folder / ADAPTER_FOLDER / "adapter_config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=r"adapter_config\.json"):
        Embedder.load(folder / MANIFEST_FILE, tiny.store, device=CPU)


def test_the_trained_embedder_is_the_one_that_indexes_and_searches(
    tmp_path: Path, learned: Path, tiny: Any, prompting: Any, compute: Any
) -> None:
    files = {
        name: read_yaml(Path(f"params/{name}.yaml")) for name in ("task", "indexing", "reranking")
    }
    params = IndexingParams.model_validate(files | {"prompting": prompting, "compute": compute})
    index = index_into(tmp_path, params, tiny, retriever=learned / "retriever")
    manifest = learned / "retriever" / MANIFEST_FILE
    assert index.settings.embedder == ModelManifest.read(manifest).identity
    assert not (tmp_path / "scratch" / "memos").exists()
    trained = Embedder.load(manifest, tiny.store, device=CPU)
    texts = [passage.shown for passage in index.passages]
    np.testing.assert_array_equal(index.dense.vectors, trained.encode(texts, purpose="passage"))
    base = Embedder.load(tiny.embedder, tiny.store, device=CPU)
    with pytest.raises(ConfigError, match="built with embedder"):
        index.search(["What?"], 1, base)
