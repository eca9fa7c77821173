"""Summaries in English and Korean: ROUGE, compression and support are those of known answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring.answer_scores import rouge_l
from tasks.scoring.summary_scores import rouge_n, score_summary, sentences, supported_sentences

NEWS = (
    "Acme said on Monday that revenue fell 12% to $5 million in 2024. Its head, John Smythe, will "
    "leave in March."
)
KOREAN_NEWS = "서울시는 2024년 예산을 45조 원으로 정했다. 지난해보다 3% 늘었다."


@pytest.mark.parametrize(
    ("output", "reference", "one", "two", "longest"),
    [
        ("the cat sat", "the cat sat on the mat", 2 / 3, 4 / 7, 2 / 3),
        ("The mat, on the cat sat.", "the cat sat on the mat", 1.0, 0.8, 0.5),
        # By syllable: 서 울 은 수 도 이 다 beside 서 울 이 수 도 이 다.
        ("서울은 수도이다", "서울이 수도이다", 6 / 7, 4 / 6, 6 / 7),
        ("수도는 서울", "서울은 수도", 0.8, 0.5, 0.4),
        ("매출 3조 원", "매출 4조 원", 0.8, 0.5, 0.8),
        ("", "서울", 0.0, 0.0, 0.0),
        ("same words", "same words", 1.0, 1.0, 1.0),
    ],
)
def test_rouge_is_that_of_known_answers(
    output: str, reference: str, one: float, two: float, longest: float
) -> None:
    found = score_summary(output, "a text", reference)
    assert (found.rouge_1, found.rouge_2, found.rouge_l) == pytest.approx((one, two, longest))


def test_a_repeated_token_counts_as_often_as_both_have_it() -> None:
    assert rouge_n("the the the", "the cat", 1) == pytest.approx(2 / 5)


def test_two_summaries_of_one_token_each_share_no_pair_unless_they_are_alike() -> None:
    assert rouge_n("cat", "dog", 2) == 0
    assert rouge_n("Cat.", "cat", 2) == 1


words = st.lists(st.sampled_from(["a1", "b", "서울", "은", "3%"]), max_size=12).map(" ".join)


@given(words, words)
def test_rouge_is_symmetric_and_a_share(left: str, right: str) -> None:
    for score in (lambda a, b: rouge_n(a, b, 1), lambda a, b: rouge_n(a, b, 2), rouge_l):
        assert 0 <= score(left, right) <= 1
        assert score(left, right) == score(right, left)
        assert score(left, left) == 1


@pytest.mark.parametrize(
    ("output", "source", "tokens", "of"),
    [("revenue fell", "revenue fell in the year", 2, 5), ("예산 45조", "예산은 45조 원", 4, 6)],
)
def test_compression_counts_the_tokens_of_both(
    output: str, source: str, tokens: int, of: int
) -> None:
    assert score_summary(output, source, "x").compression == pytest.approx(tokens / of)


@pytest.mark.parametrize(
    ("output", "source", "held", "lacking"),
    [
        ("Acme's revenue fell 12%.", NEWS, 1, 0),  # a name that begins a sentence is not told
        ("In 2024 revenue of Acme fell 12%.", NEWS, 3, 0),
        ("In 2023 revenue of Acme fell 12%.", NEWS, 3, 1),
        ("Revenue fell 12 to $5 million.", NEWS, 2, 1),  # 12 is not 12%
        ("The head, John Smith, leaves.", NEWS, 2, 1),
        ("the head leaves soon", NEWS, 0, 0),
        ("2024년 예산은 45조 원이다.", KOREAN_NEWS, 2, 0),
        ("2024년 예산은 54조 원, 3% 늘었다.", KOREAN_NEWS, 3, 1),
        ("1,000 people came", "1000 people came", 1, 0),
        ("", NEWS, 0, 0),
    ],
)
def test_numbers_and_names_that_the_text_lacks_are_counted(
    output: str, source: str, held: int, lacking: int
) -> None:
    found = score_summary(output, source, "x")
    assert (found.numbers_and_names, found.unsupported) == (held, lacking)


def test_terms_are_supported_as_often_as_the_text_holds_them() -> None:
    assert score_summary("revenue fell", NEWS, "x").supported_terms == 1.0
    assert score_summary("revenue rose", NEWS, "x").supported_terms == 0.5
    assert score_summary("revenue revenue", NEWS, "x").supported_terms == 0.5
    # Pairs of syllables: 서울, 울시 and 예산 stand there, 부산 does not.
    assert score_summary("서울시 예산 부산", KOREAN_NEWS, "x").supported_terms == 0.75


def test_a_sentence_is_supported_by_most_of_its_terms_and_all_its_numbers() -> None:
    right, wrong = "Acme said that revenue fell 12%.", "Acme said that revenue fell 13%."
    other = "Nobody knows why."
    assert supported_sentences(right, NEWS) == 1.0
    assert supported_sentences(wrong, NEWS) == 0.0
    assert supported_sentences(f"{right} {wrong} {other}", NEWS) == pytest.approx(1 / 3)
    assert (
        supported_sentences("예산을 45조 원으로 정했다. 예산을 46조 원으로 정했다.", KOREAN_NEWS)
        == 0.5
    )


def test_an_empty_summary_has_no_support_and_no_rouge() -> None:
    found = score_summary("  ", NEWS, "Revenue fell.")
    assert (found.supported_terms, found.supported_sentences) == (None, None)
    assert (found.rouge_1, found.rouge_l, found.compression) == (0, 0, 0)


def test_a_summary_longer_than_its_text_has_a_compression_above_one() -> None:
    assert score_summary("one two three", "one two", "x").compression == 1.5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is 3.5. He left!  Why?", ["It is 3.5.", "He left!", "Why?"]),
        ('"No!" she said. json.dumps works', ['"No!"', "she said.", "json.dumps works"]),
        ("늘었다. 줄었다.\n끝", ["늘었다.", "줄었다.", "끝"]),
        ("終わり。「はい。」次", ["終わり。", "「はい。」", "次"]),
        (" \n ", []),
    ],
)
def test_sentences_end_where_they_end_in_each_script(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts
