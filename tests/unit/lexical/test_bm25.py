"""BM25 finds code names by their parts and unspaced scripts by bigrams, the same every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.lexical.bm25 import LexicalIndex, lexical_tokens
from tasks.stage.errors import DataError
from tasks.stage.outputs import folder_files

TEXTS = [
    "json.dumps: Serialize an object to a JSON formatted string.",
    "json.loads: Deserialize a JSON document to an object.",
    "東京は日本の首都です。",
    "서울은 대한민국의 수도이다.",
    "http.server.HTTPServer: a socket server",
    "def read_user_name(path): return load(path)",
    "北京是中华人民共和国的首都。",
    "도서관은 평일 아침 아홉 시에 문을 연다.",
]


def test_an_identifier_gives_itself_and_its_parts() -> None:
    assert lexical_tokens("json.dumps") == ["json.dumps", "json", "dumps"]
    assert lexical_tokens("snake_case") == ["snake_case", "snake", "case"]
    assert lexical_tokens("HTTPServer") == ["httpserver", "http", "server"]
    assert lexical_tokens("getValue2") == ["getvalue2", "get", "value", "2"]


def test_a_plain_word_gives_itself_once() -> None:
    assert lexical_tokens("Return the value.") == ["return", "the", "value"]
    assert lexical_tokens("Straße naïve") == ["strasse", "naïve"]
    assert lexical_tokens("हिन्दी भाषा") == ["हिन्दी", "भाषा"]


def test_unspaced_scripts_give_bigrams() -> None:
    assert lexical_tokens("東京都") == ["東京", "京都"]
    assert lexical_tokens("서울은 x") == ["서울", "울은", "x"]
    assert lexical_tokens("水") == ["水"]


@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("what does dumps do?", 0),
        ("日本の首都", 2),
        ("대한민국의 수도", 3),
        ("http server class", 4),
        ("how is the user name read", 5),
        ("read_user_name", 5),
        ("中国的首都在哪里？", 6),
        ("도서관에서는 몇 시에 문을 여나요?", 7),
        ("대한민국에 수도가 있나요", 3),
    ],
)
def test_the_right_text_comes_first(query: str, best: int) -> None:
    positions, scores = LexicalIndex.build(TEXTS).search([query], 3)
    assert positions[0, 0] == best
    assert scores[0, 0] > scores[0, 1]


def test_a_query_without_known_terms_scores_zero_in_order_of_position() -> None:
    positions, scores = LexicalIndex.build(TEXTS).search(["zzz", ""], 99)
    assert positions.tolist() == [[*range(len(TEXTS))]] * 2
    assert not scores.any()


def test_among_some_texts_only_these_are_ranked() -> None:
    index = LexicalIndex.build(TEXTS)
    positions, scores = index.search(["what does dumps do?"], 9, np.array([1, 3, 7]))
    assert sorted(positions[0].tolist()) == [1, 3, 7]
    alone, _ = index.search(["what does dumps do?"], 99)
    kept = [at for at in alone[0].tolist() if at in {1, 3, 7}]
    assert positions[0].tolist() == kept
    assert scores.shape == (1, 3)


def test_a_saved_index_answers_alike(tmp_path: Path) -> None:
    index = LexicalIndex.build(TEXTS)
    index.save(tmp_path)
    found, kept = LexicalIndex.load(tmp_path).search(TEXTS, 5), index.search(TEXTS, 5)
    assert (found[0] == kept[0]).all()
    assert (found[1] == kept[1]).all()


def test_texts_without_any_term_can_be_indexed() -> None:
    positions, _ = LexicalIndex.build(["...", "a b"]).search(["b"], 1)
    assert positions.tolist() == [[1]]


def test_nothing_to_index_is_an_error() -> None:
    with pytest.raises(DataError, match="no texts"):
        LexicalIndex.build([])


@pytest.mark.slow
def test_the_hash_seed_changes_no_byte(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from tasks.lexical.bm25 import LexicalIndex as L;"
        "L.build(['json.dumps x', 'b c d e f g', '東京都']).save(pathlib.Path(sys.argv[1]))"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert folder_files(tmp_path / "1") == folder_files(tmp_path / "2")
