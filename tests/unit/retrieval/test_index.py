"""Hybrid search: fusion has known values, and an index answers only its own embedder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.embedding.embedder import Embedder
from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage, passages_sha256
from tasks.models.manifest import ModelManifest
from tasks.retrieval.dense import DenseIndex
from tasks.retrieval.filters import Where
from tasks.retrieval.fusion import Weights, fuse_rankings
from tasks.retrieval.index import FORMAT, INDEX_FILE, Index, IndexSettings
from tasks.stage.errors import ConfigError, DataError

TEXTS = ["json.dumps: write JSON", "math.sqrt: the square root", "東京は日本の首都です"]
SOURCES = ["python", "python", "地理"]


def test_fusion_sums_weighted_reciprocal_ranks() -> None:
    fused = dict(fuse_rankings([[7, 8], [8]], weights=[2.0, 1.0], constant=5))
    assert fused == pytest.approx({7: 2 / 6, 8: 2 / 7 + 1 / 6})


def test_fusion_breaks_ties_by_item() -> None:
    assert [item for item, _ in fuse_rankings([[3], [1]], weights=[1.0, 1.0], constant=1)] == [1, 3]


@pytest.fixture(scope="module")
def embedder(tiny: Any) -> Embedder:
    return Embedder.load(tiny.embedder, tiny.store, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Index:
    passages = tuple(
        Passage(f"d{n}#0", f"d{n}", "", text, source, "CC0")
        for n, (text, source) in enumerate(zip(TEXTS, SOURCES, strict=True))
    )
    settings = IndexSettings(
        format=FORMAT,
        embedder=embedder.digest,
        documents=3,
        passages=3,
        passages_sha256=passages_sha256(passages),
        passage_words=9,
        passage_overlap_words=1,
        candidates=3,
        rank_constant=5,
        lexical_weight=2.0,
        dense_search="exact",
        dense_recall=1.0,
    )
    dense = DenseIndex(embedder.encode(TEXTS), None)
    return Index(settings, passages, LexicalIndex.build(TEXTS), dense)


def test_a_question_finds_its_passage_in_any_script(index: Index, embedder: Embedder) -> None:
    found = index.search(["what does json.dumps do", "日本の首都"], 2, embedder)
    assert [ranked[0].passage.document for ranked in found] == ["d0", "d2"]
    assert all(len(ranked) == 2 and ranked[0].score >= ranked[1].score for ranked in found)


def test_dense_ranks_alone_answer_what_no_term_matches(index: Index, embedder: Embedder) -> None:
    (found,) = index.search(["zzzz"], 3, embedder)
    nearest = np.argsort(-(index.dense.vectors @ embedder.encode(["zzzz"])[0]))
    assert [index.passages.index(item.passage) for item in found] == nearest.tolist()


def test_a_saved_index_finds_the_same(tmp_path: Path, index: Index, embedder: Embedder) -> None:
    index.save(tmp_path)
    loaded = Index.load(tmp_path)
    assert loaded.settings == index.settings
    assert loaded.search(TEXTS, 3, embedder) == index.search(TEXTS, 3, embedder)


def test_another_embedder_is_refused(index: Index, embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match="can't be compared"):
        index.search(["x"], 1, replace(embedder, digest="f" * 64))


def test_an_embedder_that_lacks_weights_is_refused(tiny: Any, tmp_path: Path) -> None:
    description = ModelManifest.read(tiny.embedder)
    folder = tmp_path / description.digest
    shutil.copytree(description.folder(tiny.store), folder)
    weights = load_file(folder / "model.safetensors")
    torn = {name: value for name, value in weights.items() if "layer.0.output" not in name}
    save_file(torn, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 4 weights, encoder\.layer\.0\.output"):
        Embedder.load(tiny.embedder, tmp_path, device=torch.device("cpu"))


def test_no_questions_find_nothing(index: Index, embedder: Embedder) -> None:
    assert index.search([], 3, embedder) == []


def test_an_index_knows_its_documents(index: Index) -> None:
    assert index.documents == {"d0", "d1", "d2"}


def found_documents(index: Index, embedder: Embedder, *conditions: str) -> list[str]:
    (found,) = index.search(["write JSON"], 3, embedder, Where.parse(conditions))
    return [item.passage.document for item in found]


def test_a_filter_leaves_only_what_it_allows(index: Index, embedder: Embedder) -> None:
    assert found_documents(index, embedder, "source=地理") == ["d2"]
    assert found_documents(index, embedder, "source=python")[0] == "d0"
    assert set(found_documents(index, embedder, "source=python")) == {"d0", "d1"}
    assert found_documents(index, embedder, "source=python", "document=d1") == ["d1"]


def test_values_of_one_field_are_alternatives(index: Index, embedder: Embedder) -> None:
    both = found_documents(index, embedder, "source=python", "source=地理", "license=CC0")
    assert both == found_documents(index, embedder)
    assert len(both) == 3


def test_a_filter_that_allows_nothing_is_refused(index: Index, embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match=r"no passage has the source 'pyton'.*'python'"):
        found_documents(index, embedder, "source=pyton")
    with pytest.raises(ConfigError, match="all conditions of the filter together"):
        found_documents(index, embedder, "source=python", "document=d2")


@pytest.mark.parametrize("condition", ["source", "colour=red", "=x"])
def test_a_condition_that_is_none_is_refused(condition: str) -> None:
    with pytest.raises(ConfigError, match="one of source, license, title, document"):
        Where.parse([condition])


@pytest.mark.parametrize("number", [1, FORMAT + 1])
def test_an_index_of_another_format_is_refused(tmp_path: Path, index: Index, number: int) -> None:
    index.save(tmp_path)
    content = json.loads((tmp_path / INDEX_FILE).read_text())
    content["format"] = number
    if number == 1:  # the first format had no number
        del content["format"]
    (tmp_path / INDEX_FILE).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"has format {number}; this version reads format"):
        Index.load(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no index\.json"):
        Index.load(tmp_path)


def test_parts_of_two_indices_are_refused(tmp_path: Path, index: Index) -> None:
    index.save(tmp_path)
    np.save(tmp_path / "vectors.npy", index.dense.vectors[:2])
    with pytest.raises(DataError, match="3 passages, 2 vectors"):
        Index.load(tmp_path)


def test_passages_of_another_index_are_refused(tmp_path: Path, index: Index) -> None:
    index.save(tmp_path)
    path = tmp_path / "passages.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(reversed(rows)))
    with pytest.raises(DataError, match="do not belong together"):
        Index.load(tmp_path)


def test_an_index_of_before_the_weights_is_searched_as_it_was(
    tmp_path: Path, index: Index, embedder: Embedder
) -> None:
    index.save(tmp_path)
    content = json.loads((tmp_path / INDEX_FILE).read_text())
    del content["dense_weight"], content["weights_measured"]
    (tmp_path / INDEX_FILE).write_text(json.dumps(content | {"format": 3}))
    before = Index.load(tmp_path)
    assert before.settings.weights == Weights(2.0, 1.0)
    assert before.search(TEXTS, 3, embedder) == index.search(TEXTS, 3, embedder)


def test_a_half_of_weight_zero_adds_no_passage_of_its_own(index: Index, embedder: Embedder) -> None:
    lexical = replace(index, settings=index.settings.model_copy(update={"dense_weight": 0.0}))
    (found,) = lexical.search(["what does json.dumps do"], 3, None)
    assert [item.passage.document for item in found] == ["d0"]
    dense = replace(index, settings=index.settings.model_copy(update={"lexical_weight": 0.0}))
    (found,) = dense.search(["what does json.dumps do"], 3, embedder)
    nearest = np.argsort(-(index.dense.vectors @ embedder.encode(["what does json.dumps do"])[0]))
    assert [index.passages.index(item.passage) for item in found] == nearest.tolist()


def test_an_index_that_needs_an_embedder_is_not_searched_without(index: Index) -> None:
    with pytest.raises(ConfigError, match="is asked with none"):
        index.search(["x"], 1, None)
