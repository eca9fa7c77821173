"""What is told of many summaries: numbers of known answers, and in words."""

from dataclasses import asdict
from typing import Any

import pytest

from tasks.evaluation.summary_metrics import summaries_in_words, summary_metrics
from tasks.records.predictions import Prediction
from tasks.scoring.summary_scores import score_summary
from tasks.task_types.summarize import SUMMARIZE
from tests.builders.evaluation_report import answered

TEXT = "In May Acme said that revenue fell 12% to 5 million."  # 11 tokens and a percent
KOREAN = "서울시는 예산을 45조 원으로 정했다."


def row(output: str, source: str = TEXT, reference: str = "In May Acme fell 12%.") -> Prediction:
    scores = asdict(score_summary(output, source, reference))
    return answered(
        system="adapter", mode="closed_book", question=source, reference=reference, output=output,
        **scores,
    )  # fmt: skip


def test_every_metric_of_the_task_is_there_but_for_rouge() -> None:
    found = summary_metrics([row("In May revenue fell 12%.")])
    assert set(SUMMARIZE.metrics) - {"rouge_1", "rouge_2", "rouge_l"} <= set(found)


def test_shares_and_lengths_are_those_of_known_answers() -> None:
    found = summary_metrics(
        [row("In May revenue fell 13%."), row("예산 45조", KOREAN, "예산은 46조")]
    )
    # Held: may, 13%, 45; lacking: 13%. Of the references: may, acme, 12%, 46; lacking: 46.
    assert found["unsupported_share"] == pytest.approx(1 / 3)
    assert found["reference_unsupported_share"] == pytest.approx(1 / 4)
    # 6 tokens (13 and % are two) and 4, of 12 and 15.
    assert found["compression"] == pytest.approx(10 / 27)
    assert found["longer_than_source"] == found["empty_outputs"] == 0
    assert found["supported_terms_records"] == 2
    assert found["supported_sentences"] == 0.5


def test_compression_is_of_sums_so_that_no_short_text_weighs_most() -> None:
    found = summary_metrics([row("a b", "a b"), row("a", "a b c d e f g h")])
    assert found["compression"] == pytest.approx(3 / 10)


def test_empty_and_longer_summaries_are_counted() -> None:
    rows = [row(""), row("one two three", "one two"), row("Revenue fell."), row(" ")]
    found = summary_metrics(rows)
    assert found["empty_outputs"] == 0.5
    assert found["longer_than_source"] == 0.25
    assert found["supported_terms_records"] == 2


def test_what_cannot_be_told_is_null_with_its_reason() -> None:
    found = summary_metrics([row("", reference="nothing")])
    assert found["supported_terms"] is None
    assert found["supported_terms_reason"] == "every summary is empty"
    assert found["unsupported_share"] is None
    assert found["unsupported_share_reason"] == "no summary holds a number or a name"


def words(*rows: Prediction) -> str:
    metrics: dict[str, Any] = {
        "primary": {"mode": "closed_book"},
        "systems": {"adapter": {"closed_book": summary_metrics(rows)}},
    }
    return summaries_in_words(metrics)


def test_the_report_says_how_far_summaries_rest_on_their_texts() -> None:
    text = words(row("In May revenue fell 13%."))
    assert "50.0% of their numbers and names are not in it" in text
    assert "bring in 0.0% of their numbers and names, which is what is learned" in text
    assert "longer than their text" not in text
    long = words(row("one two three", "one two", "one"), row("", "one two", "one"))
    assert "(50.0% are longer than their text) (50.0% are empty)" in long
    assert "they hold no number and no name" in long
    assert "every summary is empty" in words(row(""))
