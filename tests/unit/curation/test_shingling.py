"""The likeness of two texts is that of their sets of shingles, however it is counted."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.curation.shingling import jaccard, shingles, text_jaccard

# Few letters, so that shingles come again, and ends in common are long.
TEXTS = st.text("ab 가\u0130", max_size=24)


@given(start=TEXTS, one=TEXTS, other=TEXTS, end=TEXTS, characters=st.integers(2, 6))
def test_what_texts_share_at_their_ends_is_counted_once(
    start: str, one: str, other: str, end: str, characters: int
) -> None:
    first, second = start + one + end, start + other + end
    expected = jaccard(shingles(first, characters), shingles(second, characters))
    assert text_jaccard(first, second, characters) == expected


def test_known_values() -> None:
    assert text_jaccard("Sum up.", "sum  UP.", 5) == 1.0
    assert text_jaccard("abcdef", "abcdeg", 5) == 1 / 3  # abcde, bcdef, bcdeg
    assert text_jaccard("abcd", "abcde", 5) == 0.0  # the shorter one is a shingle itself
    assert text_jaccard("aaaaaaa", "aaaaaaaaaa", 3) == 1.0
    assert text_jaccard("", "", 5) == 1.0
