"""An answer ends before the first stop text, wherever it lies among tokens."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving.stop_texts import StoppedText


class Bytes:
    """A tokenizer whose tokens are pieces of UTF-8, some of them half a character."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return b"".join(self.pieces[token] for token in ids).decode("utf-8", "replace")


def told(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[list[str], str, int, bool]:
    """What was given out, the text, how many tokens it took, and whether a stop text ended it."""
    tokenizer: Any = Bytes(pieces)
    text, given_out, used = StoppedText(tokenizer, stops), [], 0
    while used < len(pieces) and not text.is_stopped:
        given_out.append(text.feed(used))
        used += 1
    given_out.append(text.rest())
    return list(filter(None, given_out)), text.text, used, text.is_stopped


@pytest.mark.parametrize(
    ("pieces", "stops", "expected", "used"),
    [
        (["One", ". Two", ". Three"], [". T"], "One", 2),
        (["One. ", "Tw", "o. Three"], [". Two"], "One", 3),
        (["One. ", "Tw", "elve"], [". Two"], "One. Twelve", 3),
        (["a", "b", "c"], ["abc"], "", 3),
        (["a", "\n", "\n", "b"], ["\n\n"], "a", 3),
        (["\n", "\n", "a"], ["\n"], "", 1),
        (["  a ", " b"], ["  b"], "a", 2),
        (["end", "STOP", "STOP"], ["STOP"], "end", 2),
        (["xab", "c"], ["abc", "b"], "xa", 1),
        (["ab", "ab", "c"], ["abc"], "ab", 3),
        (["한국어", "입니다"], ["어입"], "한국", 2),
        (["never"], ["stop"], "never", 1),
        (["it ends in sto"], ["stop"], "it ends in sto", 1),
        ([" a ", ""], ["zz"], "a", 2),
    ],
)
def test_known_stops(pieces: list[str], stops: list[str], expected: str, used: int) -> None:
    given_out, text, tokens, _ = told([piece.encode() for piece in pieces], stops)
    assert ("".join(given_out), text, tokens) == (expected, expected, used)


def test_what_cannot_become_a_stop_text_is_given_out_at_once() -> None:
    given_out, *_ = told([b"one", b" two", b" th", b"ree"], [" three"])
    assert given_out == ["one", " two"]
    given_out, *_ = told([b"one", b" two", b" th", b"en"], [" three"])
    assert given_out == ["one", " two", " then"]


TEXTS = st.text("ab \n한é", max_size=30)
STOPS = st.lists(st.text("ab \n한", min_size=1, max_size=4), min_size=1, max_size=3)


@given(text=TEXTS, stops=STOPS, data=st.data())
def test_however_a_text_is_cut_into_tokens_it_ends_before_the_first_stop(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    whole = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=12)) if whole else []
    places = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(places)]
    given_out, found, used, is_stopped = told(pieces, stops)
    assert "".join(given_out) == found
    assert all(stop not in found for stop in stops)
    assert is_stopped == any(stop in text for stop in stops)
    if not is_stopped:
        assert found == text.strip()
        return
    seen = b"".join(pieces[:used]).decode("utf-8", "ignore")
    assert found == seen[: min(seen.find(stop) for stop in stops if stop in seen)].strip()
    for fewer in range(used):  # text that ends amid a character is not certain yet
        with suppress(UnicodeDecodeError):
            before = b"".join(pieces[:fewer]).decode()
            assert not any(stop in before for stop in stops)
