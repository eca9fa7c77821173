"""Documents are cut into passages where their structure allows, in every script, losing nothing."""

import time
import tracemalloc
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.lexical.chunking import (
    Limits,
    TokenBound,
    cut_document,
    cut_documents,
    cut_words,
    find_words,
    passages_sha256,
    read_passages,
    write_passages,
)
from tasks.records.schema import Document
from tasks.stage.errors import ConfigError, DataError


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


def test_a_cut_falls_between_paragraphs_rather_than_inside_one() -> None:
    text = "One two three. Four five six.\n\nSeven eight nine ten eleven."
    assert cut(text, 8, 0) == ["One two three. Four five six.", "Seven eight nine ten eleven."]


def test_a_cut_falls_between_sentences_rather_than_inside_one() -> None:
    assert cut("One two three four five. Six seven eight nine.", 8, 0) == [
        "One two three four five.",
        "Six seven eight nine.",
    ]
    assert cut("비가 온다. 그래서 우산을 샀다. 그리고 집에 갔다.", 9, 0)[0].endswith("샀다.")
    assert cut("今天天气很好。我们去公园。然后回家吃饭。", 14, 0)[0] == "今天天气很好。我们去公园。"


def test_abbreviations_and_numbers_of_items_end_no_sentence() -> None:
    assert cut("call it, e.g. Foo bar baz qux, as J. Doe did then", 6, 0)[0].split() == [
        *("call", "it,", "e.g.", "Foo", "bar", "baz"),
    ]
    assert cut("a b c d\n1. Foo bar\n2. Baz qux quux", 8, 0)[0].endswith("1. Foo bar")


def test_a_heading_stays_with_what_it_heads() -> None:
    text = "a b c d e\n\n## Head line\n\nf g h i j k"
    assert cut(text, 9, 0) == ["a b c d e", "## Head line\n\nf g h i j k"]
    text = "a b c d e\n\nParameters\n----------\nf g h i j k"
    assert cut(text, 8, 0) == ["a b c d e", "Parameters\n----------\nf g h i j k"]


def test_a_cut_falls_between_list_items() -> None:
    text = "intro\n- one two three\n- four five six seven\n- eight nine"
    assert cut(text, 11, 0) == ["intro\n- one two three\n- four five six seven", "- eight nine"]
    text = "항목\n가. 하나 둘 셋\n나. 넷 다섯 여섯 일곱"
    assert cut(text, 8, 0)[0].endswith("셋")


def test_a_code_block_is_kept_whole_and_its_comments_head_nothing() -> None:
    block = "```\n# load it\nx = f(y)\n\nz = x\n```"
    text = f"a b c d e f g h.\n{block}\ni j k l m n o p"
    assert cut(text, 13, 0) == ["a b c d e f g h.", block, "i j k l m n o p"]


def test_lines_of_code_are_not_torn() -> None:
    code = "\n".join(f"value_{n} = compute(n, {n}) or default" for n in range(30))
    lines = set(code.splitlines())
    assert all(set(piece.splitlines()) <= lines for piece in cut(code, 20, 6))


def test_thai_is_cut_at_its_spaces() -> None:
    text = "กรุงเทพเป็นเมืองหลวง ประเทศไทยมีประชากรมาก อาหารไทยอร่อยมาก"
    assert all(piece in text.split(" ") or " " in piece for piece in cut(text, 20, 0))


def test_punctuation_stays_with_the_word_before_it() -> None:
    for size in range(3, 12):
        assert not any(piece[0] in "，。」" for piece in cut("他说「好」，我也说好。" * 9, size, 0))


TEXTS = st.text(
    st.sampled_from(list("ab A.1#`~-=*>\n\n\t。，「」 한국어東京ที่é\u0301!?")), max_size=300
)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 20), st.integers(0, 19))
def test_no_word_is_lost_and_no_passage_is_too_long(text: str, words: int, overlap: int) -> None:
    overlap = min(overlap, words - 1)
    found = find_words(text)
    spans = list(cut_words(found, Limits(words), overlap))
    covered = 0
    for start, end in spans:
        assert covered - overlap <= start <= covered < end <= start + words
        covered = end
    assert covered == len(found)
    pieces = [text[start:end] for start, end in zip(found.starts, found.ends, strict=True)]
    assert "".join(pieces) == "".join(text.split())
    assert [len(find_words(piece)) for piece in cut(text, words, overlap)] == [
        end - start for start, end in spans
    ]


def by_character(texts: Sequence[str]) -> list[int]:
    return [len(text.encode()) for text in texts]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 20), st.integers(0, 19), st.integers(2, 60), st.integers(2, 60))
def test_no_passage_takes_more_tokens_than_its_bounds_and_no_word_is_lost(
    text: str, words: int, overlap: int, most: int, other: int
) -> None:
    overlap = min(overlap, words - 1)
    found = find_words(text)
    sizes = by_character([text[a:b] for a, b in zip(found.starts, found.ends, strict=True)])
    double = [2 * size for size in sizes]
    before = [[0, *accumulate(counts)] for counts in (sizes, double)]
    limits = Limits(words, [(most, before[0]), (other, before[1])])
    covered = 0
    for start, end in cut_words(found, limits, overlap):
        assert covered - overlap <= start <= covered < end <= start + words
        within = sum(sizes[start:end]) <= most and sum(double[start:end]) <= other
        assert within or end == start + 1
        covered = end
    assert covered == len(found)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 20), st.integers(0, 19), st.integers(2, 60), st.text("t", max_size=40))
def test_a_title_counts_and_a_bound_that_is_far_changes_nothing(
    text: str, words: int, overlap: int, most: int, title: str
) -> None:
    made, cut_so = document(text, title), {"words": words, "overlap_words": min(overlap, words - 1)}
    for passage in cut_document(made, **cut_so, bounds=[TokenBound(most, by_character)]):
        over = len(passage.shown.encode()) - max(most, len(title) + 2 + most // 2)
        assert over <= 0 or len(find_words(passage.text)) <= 1
    far = [TokenBound(10**6, by_character)]
    assert cut_document(made, **cut_so, bounds=far) == cut_document(made, **cut_so)


def test_a_script_that_takes_more_tokens_is_cut_into_shorter_passages() -> None:
    bounds = [TokenBound(60, by_character)]
    made = document("나무가 자라는 언덕 위에 작은 집이 있다. " * 9, "집")
    passages = cut_document(made, words=48, overlap_words=8, bounds=bounds)
    assert len(passages) > len(cut_document(made, words=48, overlap_words=8))
    assert all(len(item.shown.encode()) <= 60 for item in passages)


def test_an_overlap_begins_where_it_reads_best() -> None:
    text = "One two three. Four five. Six seven eight nine ten eleven twelve."
    first, second, *_ = cut(text, 6, 3)
    assert first == "One two three. Four five."
    assert second.startswith("Four five. Six")


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "The quick brown fox jumps. Over the lazy dog it goes,\nand on.\n\n",
        "한국어 문장은 띄어쓰기를 한다. 그래서 자르기 쉽다.\n",
        "中文没有空格，所以按字计算。",
        "x",
        "\n",
        "1. ",
        "```\n",
        "((((",
        "a.\u0301",
    ],
)
def test_no_text_takes_more_than_its_share_of_time_and_memory(unit: str) -> None:
    size = 300_000
    text = unit * (size // len(unit.encode()))
    tracemalloc.start()
    started = time.process_time()
    passages = cut_document(document(text), words=48, overlap_words=8)
    seconds = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bool(passages) == bool(text.strip())
    assert seconds < 20  # what grows with the square of the size takes hours
    assert peak < 60 * size


@pytest.mark.slow
def test_a_document_of_ten_megabytes_is_cut() -> None:
    paragraph = "The quick brown fox jumps. Over the lazy dog it goes,\nand on. 그리고 간다.\n\n"
    text = paragraph * (10_000_000 // len(paragraph.encode()))
    started = time.process_time()
    passages = cut_document(document(text), words=48, overlap_words=8)
    assert time.process_time() - started < 120
    assert len(passages) == len({passage.id for passage in passages}) > 30_000


def test_equal_documents_give_equal_ids_and_hashes() -> None:
    one, other = (
        cut_document(document("a b c. D e f. 한국어", "T"), words=3, overlap_words=1)
        for _ in range(2)
    )
    assert one == other
    assert [p.sha256 for p in one] == [p.sha256 for p in other]
    assert len({p.sha256 for p in one}) == len(one)
    assert passages_sha256(one) != passages_sha256(one[::-1])


def test_a_new_paragraph_at_the_end_changes_no_passage_before_it() -> None:
    before = cut("\n\n".join(f"Paragraph {n} says what it says here." for n in range(12)), 20, 4)
    after = cut("\n\n".join(f"Paragraph {n} says what it says here." for n in range(15)), 20, 4)
    assert len(set(before) - set(after)) <= 2


def test_a_passage_knows_where_its_document_is_from() -> None:
    (passage,) = cut_document(document("a"), words=9, overlap_words=1)
    assert (passage.source, passage.license) == ("test", "CC0")


def test_a_passage_that_was_changed_is_refused(tmp_path: Path) -> None:
    write_passages(
        tmp_path / "p.jsonl", cut_documents([document("서울은 수도")], words=9, overlap_words=1)
    )
    text = (tmp_path / "p.jsonl").read_text(encoding="utf-8")
    (tmp_path / "p.jsonl").write_text(text.replace("서울", "부산"), encoding="utf-8")
    with pytest.raises(DataError, match="d#0 has the hash"):
        read_passages(tmp_path / "p.jsonl")
