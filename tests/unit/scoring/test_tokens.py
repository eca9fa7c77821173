"""Tokens: what is kept whole, what is left out, and that scores stand on them."""

import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ingestion.sources.python_docs import read_packages
from tasks.scoring.answer_scores import exact_match, token_f1
from tasks.scoring.tokens import answer_tokens, answer_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("json.dumps(obj, *args, **kw)", "json.dumps obj *args **kw"),
        ("x**2 * y - z*w", "x ** 2 * y - z * w"),
        ("a, /, b, *, c", "a / b * c"),
        ("run it with --no-cache, -v or -5", "run it with --no-cache -v or -5"),
        ("x>=-1 and y!=0", "x >= -1 and y != 0"),
        ("C++11, C# and F#", "c++ 11 c# and f#"),
        ("O- or AB+, Na+ and Cl-", "o- or ab+ na+ and cl-"),
        ("i++ + j", "i++ + j"),
        ("count - 1, n-1, len(x)-1", "count - 1 n - 1 len x - 1"),
        ("2024-01-05 at 10:30", "2024 - 01 - 05 at 10:30"),
        ("COVID-19, utf-8, e-mail", "covid 19 utf 8 e mail"),
        ("a `Differ`-style delta - or two", "a differ style delta or two"),
        ("1,234,567.5 and 1,2,3 and (1,2)", "1234567.5 and 1 2 3 and 1 2"),
        ("version 3.11.7 of 3.x, 5kg", "version 3.11.7 of 3.x 5kg"),
        ("def f(x) -> int | None: ...", "def f x -> int | none"),
        ("if !ready: y := x", "if ! ready y := x"),
        ("x[1:], x[:1] and x[-1]", "x 1 : x : 1 and x -1"),
        (".NET, `.py` and ...so", ".net .py and so"),
        ("Wow! Really? Yes.", "wow really yes"),
        ("~/bin and $HOME at 90°", "~ / bin and $ home at 90 °"),
        ("*x* and **y z**, ***q***", "x and y z q"),
        ("# Title\n- one\n* two\n• three", "title one two three"),
        ("a <b> c, List<int>", "a b c list < int >"),
        ("½ of ٣٫٥ at 5℃", "1 / 2 of 3.5 at 5 ° c"),
        ("5‒3 and 1∕2 of ٣٬٠٠٠, ٥٠٪", "5 - 3 and 1 / 2 of 3000 50 %"),
        ("n‐1 → y ≤ x ≠ z", "n - 1 -> y <= x != z"),
        ("❤\ufe0f or ❤\ufe0e", "❤ or ❤"),
        ("서울\ufffd", "서울 \ufffd"),
        ("Windows® ©2024", "windows 2024"),
        ("9時-17時", "9 時 - 17 時"),
        ("3개월", "3 개월"),
        ("json.dumps함수는", "json.dumps 함수는"),
        ("ราคา -5 บาท", "ราคา -5 บาท"),
        ("👍 or 👎", "👍 or 👎"),
    ],
)
def test_what_means_something_is_kept_and_the_rest_left_out(text: str, expected: str) -> None:
    assert list(answer_words(text)) == expected.split()


@pytest.mark.parametrize(("one", "other"), [("()", "[]"), ("?", "!"), ("...", ","), ("''", '""')])
def test_a_text_of_marks_alone_has_its_characters(one: str, other: str) -> None:
    assert exact_match(one, one) == token_f1(one, one) == 1
    assert exact_match(one, other) == token_f1(one, other) == 0


def test_a_sign_alone_is_the_same_in_another_form() -> None:
    assert exact_match("−", "-") == 1


def test_a_long_text_of_signs_takes_no_time() -> None:
    """No pattern tries every way to cut a text: minutes, where one does."""
    started = time.process_time()
    for piece in ("*a ", "1,", "1.", "--a", "<a", "a+", "가-1", "e-", "1 - ", "a.", "(1", "!"):
        assert answer_words(piece * 10_000)
    assert time.process_time() - started < 20


def test_what_is_written_without_spaces_is_compared_by_word_and_counted_by_character() -> None:
    assert answer_words("서울은 수도") == ("서울은", "수도")
    assert answer_tokens("서울은 c++") == ("서", "울", "은", "c++")


TEXTS = st.text("ab가東1.,-*+#<>_()' $%=!\n", max_size=16) | st.text(max_size=30)


@settings(deadline=None)  # the first example imports
@given(TEXTS, TEXTS)
def test_a_text_scores_one_with_itself_and_equal_words_mean_equal_tokens(
    left: str, right: str
) -> None:
    assert exact_match(left, left) == token_f1(left, left) == 1
    assert exact_match(left, right) <= token_f1(left, right)
    assert bool(answer_words(left)) == bool(unicodedata.normalize("NFKC", left).split())


@pytest.mark.slow
def test_every_reference_of_the_default_data_has_tokens_and_scores_one_with_itself() -> None:
    docs = read_packages(["stdlib"], document_characters=600, unanswerable_share=0.12)
    references = {row["answer"] for row in docs.records}
    assert len(references) > 5000
    for reference in references:
        assert answer_words(reference), reference
        assert any(one.isalnum() for word in answer_words(reference) for one in word), reference
        assert exact_match(reference, reference) == token_f1(reference, reference) == 1, reference
