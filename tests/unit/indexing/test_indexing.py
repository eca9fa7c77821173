"""The indexing stage: equal inputs give equal bytes, and its memo changes time alone."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.embedding.embedder import Embedder
from tasks.embedding.vector_memo import VectorMemo
from tasks.indexing.params import Params
from tasks.records.schema import Document, read_documents, write_documents
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, write_manifest
from tasks.stage.params import read_yaml
from tests.builders.indexes import index_into


@pytest.fixture
def params(prompting: Any, compute: Any) -> Params:
    names = ("task", "indexing", "reranking")
    files = {name: read_yaml(Path(f"params/{name}.yaml")) for name in names}
    return Params.model_validate(files | {"prompting": prompting, "compute": compute})


def test_documents_become_passages_with_unit_vectors(
    tmp_path: Path, params: Params, tiny: Any
) -> None:
    index = index_into(tmp_path, params, tiny)
    assert len(index.passages) == len(index.dense.vectors) == index.settings.passages == 24
    assert np.linalg.norm(index.dense.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    metrics = read_metrics(tmp_path / "report")
    assert metrics.pop("weights")["reason"] == "too_few"
    assert metrics == {
        "documents": 12,
        "passages": 24,
        "passages_cut": 0,
        "dimension": 16,
        "dense_search": "exact",
        "dense_recall": 1.0,
        "reranked_passages": 0,
        "idle_halves": 1,
        "query_prompt": "",
        "passage_prompt": "",
        "lacks_prompts": False,
    }
    assert all((item.source, item.license) == ("test", "CC0") for item in index.passages)


def test_passages_of_which_the_embedder_sees_the_beginning_alone_are_told(
    tmp_path: Path, params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Embedder.load
    monkeypatch.setattr(
        Embedder, "load", lambda *given, **named: replace(load(*given, **named), max_tokens=4)
    )
    index_into(tmp_path, params, tiny)
    assert read_metrics(tmp_path / "report")["passages_cut"] == 24
    report = (tmp_path / "report" / "report.md").read_text()
    assert "sees the beginning alone of 24 passages" in report
    assert "Shorten these titles" in report
    assert "of at most 8 words and 64 tokens of the base" in report


def test_the_same_documents_give_the_same_bytes(tmp_path: Path, params: Params, tiny: Any) -> None:
    index_into(tmp_path / "1", params, tiny)
    index_into(tmp_path / "2", params, tiny)
    assert folder_files(tmp_path / "1" / "index") == folder_files(tmp_path / "2" / "index")


def test_only_new_and_changed_passages_are_embedded(
    tmp_path: Path, params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = index_into(tmp_path, params, tiny)
    curated = tmp_path / "curated"
    shutil.copytree(tiny.curated, curated)
    documents = read_documents(curated / "documents.jsonl")
    changed = replace(documents[0], text=documents[0].text.replace("rest a while", "go on"))
    new = Document("새", "하나도 없던 문서이다.", "", "test", "CC0")
    write_documents(curated / "documents.jsonl", [changed, *documents[2:], new])
    write_manifest(curated)
    encoded: list[str] = []
    encode = Embedder.encode

    def recording(self: Embedder, texts: Any, *rest: Any, **named: Any) -> Any:
        encoded.extend(texts)
        return encode(self, texts, *rest, **named)

    monkeypatch.setattr(Embedder, "encode", recording)
    after = index_into(tmp_path, params, tiny, curated)
    known = {passage.shown for passage in before.passages}
    assert set(encoded) == {passage.shown for passage in after.passages} - known
    assert len(encoded) == 2


def test_from_a_number_of_passages_on_search_is_approximate_and_its_recall_is_told(
    tmp_path: Path, params: Params, tiny: Any
) -> None:
    settings = params.indexing.model_copy(update={"exact_below": 20, "candidates": 5})
    approximate = params.model_copy(update={"indexing": settings})
    index = index_into(tmp_path, approximate, tiny)
    assert index.settings.dense_search == "approximate"
    assert index.settings.dense_recall >= settings.least_recall
    assert read_metrics(tmp_path / "report")["dense_recall"] == index.settings.dense_recall
    assert "clusters and finds" in (tmp_path / "report" / "report.md").read_text()
    embedder = Embedder.load(tiny.embedder, tiny.store, device=torch.device("cpu"))
    (found,) = index.search([index.passages[3].shown], 1, embedder)
    assert found[0].passage == index.passages[3]
    index_into(tmp_path / "again", approximate, tiny)
    assert folder_files(tmp_path / "index") == folder_files(tmp_path / "again" / "index")


def test_a_vector_that_is_not_finite_is_refused_and_not_remembered(
    tmp_path: Path, params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Embedder.encode
    with monkeypatch.context() as patch:
        patch.setattr(
            Embedder, "encode", lambda *rest, **named: encode(*rest, **named) * np.float32("nan")
        )
        with pytest.raises(DataError, match=r"vector that is not finite, the first 'mod\.f0"):
            index_into(tmp_path, params, tiny)
    assert np.isfinite(index_into(tmp_path, params, tiny).dense.vectors).all()


def test_the_memo_spares_the_embedder_and_changes_nothing(
    tmp_path: Path, params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_into(tmp_path, params, tiny)
    first = folder_files(tmp_path / "index")
    encoded: list[int] = []
    encode = Embedder.encode

    def counting(self: Embedder, texts: Any, *rest: Any, **named: Any) -> Any:
        encoded.append(len(texts))
        return encode(self, texts, *rest, **named)

    monkeypatch.setattr(Embedder, "encode", counting)
    index_into(tmp_path, params, tiny)
    shutil.rmtree(tmp_path / "scratch" / "memos")
    assert folder_files(tmp_path / "index") == first
    index_into(tmp_path, params, tiny)
    assert folder_files(tmp_path / "index") == first
    assert encoded == [24, 9]  # passages, and the questions by which the halves are weighted


def test_a_torn_memo_counts_as_none(tmp_path: Path) -> None:
    VectorMemo(tmp_path, "e").replace(["a"], np.ones((1, 2), np.float32))
    assert VectorMemo(tmp_path, "e").get("a") is not None
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:30])
    assert VectorMemo(tmp_path, "e").get("a") is None


def test_no_documents_make_an_empty_index(tmp_path: Path, params: Params, tiny: Any) -> None:
    shutil.copytree(tiny.curated, tmp_path / "curated")
    (tmp_path / "curated" / "documents.jsonl").write_text("")
    (tmp_path / "curated" / "manifest.json").unlink()
    write_manifest(tmp_path / "curated")
    index = index_into(tmp_path, params, tiny, tmp_path / "curated")
    assert index.passages == ()
    assert index.lexical is None
