"""A correction answers its own question, and no neighbour's: any language, wording and number."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tasks.embedding.embedder import Embedder
from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage, cut_document, passages_sha256
from tasks.records.schema import Document
from tasks.retrieval.dense import DenseIndex
from tasks.retrieval.filters import Where
from tasks.retrieval.index import FORMAT, Index, IndexSettings

# How people ask, how they ask otherwise, and what documents are about.
KINDS = {
    "functions": (
        "What can I use {} for?", "I came across {} in our code, what does it do?",
        [f"shop.{part}.{name}" for part in ("cart", "order") for name in
         ("add", "add_all", "remove", "total", "total_tax")],
    ),
    "products": (
        "How long can I send the {} back?", "Until when may the {} be returned, please?",
        ["Aurora kettle", "Aurora kettle XL", "Boreas fan", "Cirrus lamp", "Dune chair",
         "Ember oven", "Fjord desk", "Grove shelf"],
    ),
    "질문": (
        "{} 환불은 언제까지 되나요?", "혹시 {} 돈을 돌려받을 수 있는 기간이 며칠인가요?",
        ["무선청소기", "전기주전자", "공기청정기", "식탁의자", "책상조명", "겨울이불"],
    ),
    "Fragen": (
        "Wofür brauche ich die {}?", "Sag mir bitte, was die {} macht.",
        ["Bohrmaschine", "Kreissäge", "Heckenschere", "Wasserpumpe", "Werkbank"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def embedder(tiny: Any) -> Embedder:
    return Embedder.load(tiny.embedder, tiny.store, device=torch.device("cpu"))


def index_of(documents: Sequence[Document], embedder: Embedder) -> Index:
    passages = [
        passage
        for document in documents
        for passage in cut_document(document, words=48, overlap_words=8)
    ]
    texts = [passage.shown for passage in passages]
    settings = IndexSettings(
        format=FORMAT,
        embedder=embedder.digest,
        documents=len(documents),
        passages=len(passages),
        passages_sha256=passages_sha256(passages),
        passage_words=48,
        passage_overlap_words=8,
        candidates=20,
        rank_constant=5,
        lexical_weight=2.0,
        dense_search="exact",
        dense_recall=1.0,
    )
    dense = DenseIndex(embedder.encode(texts), None)
    return Index(settings, tuple(passages), LexicalIndex.build(texts), dense)


def about(names: Sequence[str]) -> list[Document]:
    return [Document(name, f"{name}: page {n}.", name, "docs", "") for n, name in enumerate(names)]


def corrected(names: Sequence[str], wording: str) -> list[Document]:
    return [
        Document(f"c-{name}", f"As told {n}.", wording.format(name), "people", "", True)
        for n, name in enumerate(names)
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_neighbour_never_gets_somebody_else_s_correction(
    kind: str, share: float, embedder: Embedder
) -> None:
    asked, reworded, names = KINDS[kind]
    known = names[: max(1, int(share * len(names)))]
    index = index_of([*about(names), *corrected(known, asked)], embedder)
    for name in names:
        own = {f"c-{name}"} if name in known else set()
        for question in (asked.format(name), reworded.format(name)):
            (found,) = index.search([question], 50, embedder)
            shown = {item.passage.document for item in found}
            contained = {f"c-{other}" for other in known if other in name or name in other}
            assert own <= {one for one in shown if one.startswith("c-")} <= own | contained, (
                question
            )
            assert set(names) <= shown, question


def test_many_corrections_leave_room_for_documents(embedder: Embedder) -> None:
    names = [f"lib.{n}.run" for n in range(200)]
    index = index_of([*about(names), *corrected(names[:-1], "What is {} for?")], embedder)
    (found,) = index.search(["What is lib.199.run for?"], 5, embedder)
    assert len(found) == 5
    assert found[0].passage.document == "lib.199.run"
    assert not any(item.passage.is_correction for item in found)


def test_where_no_title_tells_the_subject_every_correction_may_be_found(embedder: Embedder) -> None:
    documents = [Document(f"d{n}", f"Page {n} of the book.", "", "docs", "") for n in range(4)]
    index = index_of([*documents, *corrected(["the shop", "the bar"], "When does {} open?")],
                     embedder)  # fmt: skip
    (found,) = index.search(["When does the shop open?"], 3, embedder)
    assert found[0].passage.document == "c-the shop"
    assert "c-the bar" in {item.passage.document for item in found}


def test_a_filter_still_holds(embedder: Embedder) -> None:
    names = ["json.dump", "json.load"]
    index = index_of([*about(names), *corrected(names, "What is {} for?")], embedder)
    where = Where.parse(["source=people"])
    (found,) = index.search(["What is json.load for?"], 3, embedder, where)
    assert [item.passage.document for item in found] == ["c-json.load"]


def test_a_mark_is_kept_and_rows_without_one_keep_their_form() -> None:
    plain, marked = about(["a"])[0], corrected(["a"], "What is {}?")[0]
    assert "is_correction" not in plain.as_row()
    for document in (plain, marked):
        assert Document.from_row(document.as_row()) == document
        (passage,) = cut_document(document, words=9, overlap_words=1)
        assert ("is_correction" in passage.as_row()) == document.is_correction
        assert Passage.from_row(passage.as_row()) == passage
