"""The indexing stage: equal inputs give equal bytes, and its memo changes time alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.indexing.__main__ import Paths, run
from tasks.indexing.params import Params
from tasks.lm.embedding import Embedder
from tasks.lm.memo import VectorMemo
from tasks.serving.retrieval import Index
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files
from tasks.stage.params import read_yaml


@pytest.fixture
def params(prompting: Any, compute: Any) -> Params:
    indexing = read_yaml(Path("params/indexing.yaml"))
    return Params.model_validate({"indexing": indexing, "prompting": prompting, "compute": compute})


def index_into(root: Path, params: Params, tiny: Any, curated: Path | None = None) -> Index:
    paths = Paths(
        curated=curated or tiny.curated,
        embedder=tiny.embedder,
        model_store=tiny.store,
        scratch=root / "scratch",
        index=root / "index",
        indexing_report=root / "report",
    )
    run(params, paths)
    return Index.load(root / "index")


def test_documents_become_passages_with_unit_vectors(
    tmp_path: Path, params: Params, tiny: Any
) -> None:
    index = index_into(tmp_path, params, tiny)
    assert len(index.passages) == len(index.vectors) == index.settings.passages == 24
    assert np.linalg.norm(index.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert read_metrics(tmp_path / "report") == {"documents": 12, "passages": 24, "dimension": 16}


def test_the_same_documents_give_the_same_bytes(tmp_path: Path, params: Params, tiny: Any) -> None:
    index_into(tmp_path / "1", params, tiny)
    index_into(tmp_path / "2", params, tiny)
    assert folder_files(tmp_path / "1" / "index") == folder_files(tmp_path / "2" / "index")


def test_the_memo_spares_the_embedder_and_changes_nothing(
    tmp_path: Path, params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_into(tmp_path, params, tiny)
    first = folder_files(tmp_path / "index")
    encoded: list[int] = []
    encode = Embedder.encode

    def counting(self: Embedder, texts: Any, progress: Any = None) -> Any:
        encoded.append(len(texts))
        return encode(self, texts, progress)

    monkeypatch.setattr(Embedder, "encode", counting)
    index_into(tmp_path, params, tiny)
    shutil.rmtree(tmp_path / "scratch" / "memos")
    assert folder_files(tmp_path / "index") == first
    index_into(tmp_path, params, tiny)
    assert folder_files(tmp_path / "index") == first
    assert encoded == [24]


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
    from tasks.stage.outputs import write_manifest

    write_manifest(tmp_path / "curated")
    index = index_into(tmp_path, params, tiny, tmp_path / "curated")
    assert index.passages == ()
    assert index.lexical is None
