"""What people corrected is learned first, several times, and within its share of the budget."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from pyarrow import parquet

from tasks.sequences.examples import Example, read_examples, write_examples, write_weights
from tasks.training.batches import (
    choose_examples,
    choose_feedback,
    count_feedback,
    make_batches,
    read_splits,
)
from tests.unit.sequences.test_packing import examples, read_yaml_training

PARAMS = read_yaml_training().model_copy(
    update={"token_budget": 2000, "feedback_share": 0.25, "feedback_passes": 4}
)


def corrected(count: int, intake: str = "n2") -> list[Example]:
    """Feedback that a later night took in."""
    return [
        replace(item, id=f"{intake}-f{place}", context=f"{intake}-f{place}", intake=intake,
                slice="reviews.feedback", is_feedback=True)
        for place, item in enumerate(examples(count, intake))
    ]  # fmt: skip


def tokens(rows: list[Example]) -> int:
    return sum(len(item.token_ids) for item in rows)


def written(folder: Path, rows: list[Example]) -> Path:
    for split in ("train", "validation"):
        write_examples(folder / f"{split}.parquet", rows)
    return folder


def test_feedback_is_learned_several_times_each_in_a_step_of_its_own() -> None:
    rows = corrected(3)
    chosen = choose_feedback([*examples(200, "n1"), *rows], PARAMS, {})

    assert Counter(item.id for item in chosen) == {item.id: 4 for item in rows}
    assert len({item.context for item in chosen}) == 12
    assert {item.token_ids for item in chosen} == {item.token_ids for item in rows}
    single = PARAMS.model_copy(update={"batch_examples": 1})
    batches = make_batches(chosen, single, max_tokens=512)
    assert len(batches) == 12
    assert count_feedback(batches) == {"rows": 3, "examples": 12}
    assert count_feedback(make_batches(examples(9, "n1"), single, max_tokens=512)) == {}


def test_much_feedback_is_learned_once_within_its_share_the_newest_first() -> None:
    rows = [*corrected(200, "n2"), *corrected(5, "n3")]
    chosen = choose_feedback(rows, PARAMS, {})

    assert tokens(chosen) <= 500
    assert tokens(chosen) > 400
    assert max(Counter(item.id for item in chosen).values()) == 1
    assert {item.id for item in corrected(5, "n3")} <= {item.id for item in chosen}


def test_old_feedback_is_learned_while_newer_rows_come(tmp_path: Path) -> None:
    rows = [*corrected(4, "n1"), *examples(300, "n2")]

    learned, _ = read_splits(written(tmp_path, rows), PARAMS)

    assert {item.id for item in learned if item.is_feedback} == {f"n1-f{n}" for n in range(4)}
    assert 1800 < tokens(learned) <= 2000


def test_a_weight_counts_in_place_of_the_share(tmp_path: Path) -> None:
    docs = [replace(item, slice="docs") for item in examples(300, "n1")]
    folder = written(tmp_path, [*docs, *corrected(300)])
    write_weights(folder, {"docs": 1.0, "reviews": 3.0})

    learned, _ = read_splits(folder, PARAMS)

    assert 1400 < tokens([item for item in learned if item.is_feedback]) <= 1500
    assert 400 < tokens([item for item in learned if not item.is_feedback]) <= 600


def test_without_feedback_the_examples_and_their_file_stay_what_they_were(tmp_path: Path) -> None:
    rows = [*examples(100, "n1"), *examples(100, "n2")]
    learned, _ = read_splits(written(tmp_path, rows), PARAMS)

    assert learned == choose_examples(
        rows, token_budget=2000, new_share=PARAMS.new_share, seed=PARAMS.seed
    )
    assert "is_feedback" not in parquet.read_schema(tmp_path / "train.parquet").names
    assert read_examples(tmp_path / "train.parquet") == rows
