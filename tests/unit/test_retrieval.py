"""Hybrid search: fusion has known values, and an index answers only its own embedder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.lm.embedding import Embedder
from tasks.records.lexical import LexicalIndex
from tasks.records.passages import Passage
from tasks.serving.retrieval import Index, IndexSettings, fuse_rankings
from tasks.stage.errors import ConfigError

TEXTS = ["json.dumps: write JSON", "math.sqrt: the square root", "東京は日本の首都です"]


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
    passages = tuple(Passage(f"d{n}#0", f"d{n}", "", text) for n, text in enumerate(TEXTS))
    settings = IndexSettings(
        embedder=embedder.digest,
        documents=3,
        passages=3,
        passage_words=9,
        passage_overlap_words=1,
        candidates=3,
        rank_constant=5,
        lexical_weight=2.0,
    )
    return Index(settings, passages, LexicalIndex.build(TEXTS), embedder.encode(TEXTS))


def test_a_question_finds_its_passage_in_any_script(index: Index, embedder: Embedder) -> None:
    found = index.search(["what does json.dumps do", "日本の首都"], 2, embedder)
    assert [ranked[0].passage.document for ranked in found] == ["d0", "d2"]
    assert all(len(ranked) == 2 and ranked[0].score >= ranked[1].score for ranked in found)


def test_dense_ranks_alone_answer_what_no_term_matches(index: Index, embedder: Embedder) -> None:
    (found,) = index.search(["zzzz"], 3, embedder)
    nearest = np.argsort(-(index.vectors @ embedder.encode(["zzzz"])[0]))
    assert [index.passages.index(item.passage) for item in found] == nearest.tolist()


def test_a_saved_index_finds_the_same(tmp_path: Path, index: Index, embedder: Embedder) -> None:
    index.save(tmp_path)
    loaded = Index.load(tmp_path)
    assert loaded.settings == index.settings
    assert loaded.search(TEXTS, 3, embedder) == index.search(TEXTS, 3, embedder)


def test_another_embedder_is_refused(index: Index, embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match="can't be compared"):
        index.search(["x"], 1, replace(embedder, digest="f" * 64))


def test_no_questions_find_nothing(index: Index, embedder: Embedder) -> None:
    assert index.search([], 3, embedder) == []
