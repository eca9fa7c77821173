"""Documents are cut into passages by words, in scripts with and without spaces."""

from pathlib import Path

import pytest

from tasks.records.passages import cut_document, cut_documents, read_passages, write_passages
from tasks.records.record import Document
from tasks.stage.errors import ConfigError


def document(text: str, title: str = "") -> Document:
    return Document(id="d", text=text, title=title, source="test", license="CC0")


def cut(text: str, words: int, overlap: int) -> list[str]:
    return [p.text for p in cut_document(document(text), words=words, overlap_words=overlap)]


def test_neighbours_share_the_overlap_and_nothing_is_lost() -> None:
    assert cut("a b c d e f g", 4, 1) == ["a b c d", "d e f g"]


def test_no_passage_holds_only_what_its_neighbour_holds() -> None:
    assert cut("a b c d", 4, 2) == ["a b c d"]
    assert cut("a b c d e", 4, 2) == ["a b c d", "c d e"]


def test_a_script_without_spaces_is_cut_too() -> None:
    pieces = cut("東京は日本の首都です。" * 10, 20, 4)
    assert len(pieces) > 5
    assert all(len(piece) <= 22 for piece in pieces)


def test_a_thai_vowel_sign_stays_with_its_consonant() -> None:
    assert all(not piece.startswith("\u0e35") for piece in cut("ที่นี่มีปีดี", 2, 0))


def test_a_run_without_spaces_cannot_make_a_passage_without_end() -> None:
    assert max(len(piece) for piece in cut("x" * 5000, 10, 0)) <= 400


def test_white_space_inside_a_passage_stays() -> None:
    assert cut("if x:\n    y()", 8, 2) == ["if x:\n    y()"]


def test_ids_are_the_document_and_a_place() -> None:
    passages = cut_document(document("a b c d e", "T"), words=3, overlap_words=1)
    assert [(p.id, p.document) for p in passages] == [("d#0", "d"), ("d#1", "d")]


def test_the_title_is_shown_once() -> None:
    (passage,) = cut_document(document("Return it.", "json.dumps"), words=9, overlap_words=1)
    assert passage.shown == "json.dumps: Return it."
    (passage,) = cut_document(document("json.dumps(x)", "json.dumps"), words=9, overlap_words=1)
    assert passage.shown == "json.dumps(x)"


def test_a_title_alone_is_a_passage_and_nothing_is_none() -> None:
    assert [p.shown for p in cut_document(document("", "T"), words=9, overlap_words=1)] == ["T"]
    assert cut_document(document(" \n"), words=9, overlap_words=1) == []


def test_an_overlap_as_long_as_a_passage_is_refused() -> None:
    with pytest.raises(ConfigError, match="passage_overlap_words is 8"):
        cut_document(document("a"), words=8, overlap_words=8)


def test_passages_come_back_from_a_file(tmp_path: Path) -> None:
    passages = cut_documents([document("한국어 문장 하나", "제목")], words=4, overlap_words=1)
    assert write_passages(tmp_path / "p.jsonl", passages) == len(passages)
    assert read_passages(tmp_path / "p.jsonl") == passages
