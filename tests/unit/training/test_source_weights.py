"""Each source has its part of the training token budget."""

from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from tasks.sequences.examples import (
    WEIGHTS_FILE,
    Example,
    read_weights,
    write_examples,
    write_weights,
)
from tasks.training.batches import choose_examples, make_batches, read_splits, tokens_by_source
from tests.unit.sequences.test_packing import examples, read_yaml_training


def of_sources(**counts: int) -> list[Example]:
    """Examples of several sources: so many of each, as `examples` makes them."""
    found = []
    for name, count in counts.items():
        made = examples(count, "n1")
        found += [
            replace(item, id=f"{name}-{item.id}", context=f"{name}-{item.id}", slice=label)
            for item, label in zip(made, cycle([name, f"{name}.hard"]), strict=False)
        ]
    return found


def tokens_of(chosen: list[Example], source: str) -> int:
    return sum(len(item.token_ids) for item in chosen if item.slice.partition(".")[0] == source)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"faq": 1.0, "docs": 1.0}, {"faq": 0.5, "docs": 0.5}),
        ({"faq": 3.0, "docs": 1.0}, {"faq": 0.75, "docs": 0.25}),
        ({"faq": 0.1, "docs": 0.9}, {"faq": 0.1, "docs": 0.9}),
    ],
)
def test_each_source_has_its_part_of_the_budget(
    weights: dict[str, float], shares: dict[str, float]
) -> None:
    rows = of_sources(faq=200, docs=200)
    chosen = choose_examples(rows, token_budget=2000, new_share=0.5, seed=0, weights=weights)
    for name, share in shares.items():
        assert tokens_of(chosen, name) == pytest.approx(2000 * share, abs=30)
    assert sum(len(item.token_ids) for item in chosen) <= 2000


def test_what_a_small_source_leaves_goes_to_the_others_by_their_weights() -> None:
    rows = of_sources(few=3, faq=200, docs=200)
    weights = {"few": 8.0, "faq": 1.0, "docs": 3.0}
    chosen = choose_examples(rows, token_budget=2000, new_share=0.5, seed=0, weights=weights)
    few = tokens_of(rows, "few")
    assert tokens_of(chosen, "few") == few
    assert tokens_of(chosen, "faq") == pytest.approx((2000 - few) / 4, abs=30)
    assert tokens_of(chosen, "docs") == pytest.approx((2000 - few) * 3 / 4, abs=30)


def test_rows_of_a_source_without_a_weight_take_what_is_left() -> None:
    weights = {"faq": 1.0}
    many = choose_examples(
        of_sources(faq=200, gone=50), token_budget=1000, new_share=0.5, seed=0, weights=weights
    )
    few = choose_examples(
        of_sources(faq=5, gone=50), token_budget=1000, new_share=0.5, seed=0, weights=weights
    )
    assert tokens_of(many, "gone") <= 30
    assert tokens_of(few, "faq") == tokens_of(of_sources(faq=5), "faq")
    assert tokens_of(few, "gone") > 300


@pytest.mark.parametrize("weights", [None, {}, {"faq": 1.0}, {"faq": 7.0}])
def test_the_weight_of_the_only_source_changes_nothing(weights: dict[str, float] | None) -> None:
    rows = of_sources(faq=120)
    plain = choose_examples(rows, token_budget=800, new_share=0.5, seed=0)
    assert plain == choose_examples(rows, token_budget=800, new_share=0.5, seed=0, weights=weights)


def test_the_newest_intake_of_the_night_is_the_newest_of_every_source() -> None:
    old, new = of_sources(faq=100), of_sources(docs=100)
    new = [replace(item, intake="n2") for item in new]
    chosen = choose_examples(
        [*old, *new], token_budget=800, new_share=0.25, seed=0, weights={"faq": 1.0, "docs": 1.0}
    )
    assert tokens_of(chosen, "faq") == pytest.approx(400, abs=30)
    assert tokens_of(chosen, "docs") == pytest.approx(400, abs=30)


def test_training_reads_the_weights_beside_the_tokens(tmp_path: Path) -> None:
    params = read_yaml_training().model_copy(update={"token_budget": 1000})
    for split in ("train", "validation"):
        write_examples(tmp_path / f"{split}.parquet", of_sources(faq=100, docs=100))
    learned, _ = read_splits(tmp_path, params)
    by_row = tokens_of(learned, "faq")

    write_weights(tmp_path, {"faq": 9.0, "docs": 1.0})

    learned, _ = read_splits(tmp_path, params)
    assert tokens_of(learned, "faq") == pytest.approx(900, abs=30)
    assert by_row == pytest.approx(500, abs=150)
    batches = make_batches(learned, params, max_tokens=256)
    assert tokens_by_source(batches, read_weights(tmp_path)) == {
        "docs": tokens_of(learned, "docs"),
        "faq": tokens_of(learned, "faq"),
    }


def test_without_weights_nothing_is_written(tmp_path: Path) -> None:
    write_weights(tmp_path, {})
    assert not (tmp_path / WEIGHTS_FILE).exists()
    assert read_weights(tmp_path) == {}
