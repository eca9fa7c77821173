"""Of several sources each tells of its own rows which ones left, by a read of all that it has."""

import random
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tasks.ingestion.intake_files import id_keys, intake_folders
from tasks.records.withdrawals import withdrawn_rows
from tasks.stage.errors import GateError
from tasks.stage.outputs import folder_files, write_manifest
from tests.builders.ingestion import ingestion_params
from tests.builders.sources_of_rows import OFFERS, Offer
from tests.unit.ingestion.test_sources import Place, ask

GONE = {"missing": "withdraw", "max_missing_share": 0.9}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_one_source_withdraws_its_missing_rows_and_the_other_keeps_them(place: Place) -> None:
    for name in ("f", "d"):
        place.write(f"{name}_texts.jsonl", [{"id": f"{name}{n}", "text": f"{n}"} for n in (1, 2)])
    texts = {"faq": {"documents": ["f_texts.jsonl"]}, "docs": {"documents": ["d_texts.jsonl"]}}
    place.night(
        place.entry("faq", ask("a"), ask("b"), **GONE, **texts["faq"]),
        place.entry("docs", ask("c"), ask("d"), **texts["docs"]),
    )
    for name in ("f", "d"):
        place.write(f"{name}_texts.jsonl", [{"id": f"{name}1", "text": "1"}])

    taken = place.night(
        place.entry("faq", ask("a"), **GONE, **texts["faq"]),
        place.entry("docs", ask("c"), **texts["docs"]),
    )

    assert set(place.rows()) == {"a", "c", "d"}
    assert set(place.rows("documents")) == {"f1", "d1", "d2"}
    assert taken.intake is None
    assert taken.warnings == (
        "1 records are withdrawn: source faq no longer has them",
        "1 documents are withdrawn: source faq no longer has them",
    )


def test_a_source_that_was_left_out_withdraws_nothing(place: Place) -> None:
    whole = place.entry("faq", ask("a"), ask("b"), **GONE, on_failure="skip")
    place.night(whole, place.entry("docs", ask("c"), ask("d")))
    (place.root / "faq.jsonl").unlink()

    taken = place.night(whole, place.entry("docs", ask("c"), ask("e")))

    assert "faq" in taken.left_out
    assert withdrawn_rows(place.raw) == {}
    assert set(place.rows()) == set("abcde")


@pytest.mark.parametrize("ending", [b'\xff\xfe"', b'["an array"]'])
def test_a_source_that_fails_while_it_is_read_withdraws_nothing(
    place: Place, ending: bytes
) -> None:
    entry = place.entry("faq", ask("a"), ask("b"), **GONE, on_failure="skip")
    entry["files"] |= {"records": ["faq.jsonl", "second.csv"]}
    (place.root / "second.csv").write_text("id,question,answer\nz,Is it z?,yes\n")
    place.night(entry, place.entry("docs", ask("c")))
    place.write("faq.jsonl", [ask("a")])
    (place.root / "second.csv").write_bytes(ending * 1000)

    taken = place.night(entry, place.entry("docs", ask("c")))

    assert "faq" in taken.left_out
    assert withdrawn_rows(place.raw) == {}
    assert set(place.rows()) == {"a", "b", "c", "z"}


def test_what_a_limit_does_not_take_in_is_not_missing_and_what_left_is(place: Place) -> None:
    rows = [ask(f"r{number:03}") for number in range(60)]
    others = place.entry("docs", ask("c"))
    place.night(place.entry("faq", *rows[:30], limit=10, **GONE), others)
    first = set(place.rows()) - {"c"}

    place.night(place.entry("faq", *rows, limit=10, **GONE), others)  # other hashes are the lowest
    assert withdrawn_rows(place.raw) == {}

    left = sorted(first)[0]
    place.night(place.entry("faq", *(r for r in rows if r["id"] != left), limit=10, **GONE), others)
    assert [row.id for found in withdrawn_rows(place.raw).values() for row in found] == [left]


def test_a_row_that_moved_to_another_source_is_not_missing(place: Place) -> None:
    place.night(
        place.entry("faq", ask("a"), ask("b"), **GONE), place.entry("docs", ask("c"), **GONE)
    )
    taken = place.night(
        place.entry("faq", ask("a"), **GONE), place.entry("docs", ask("b"), ask("c"), **GONE)
    )
    assert taken.warnings == ()
    assert place.slices() == {"a": "faq", "b": "docs", "c": "docs"}
    place.night(place.entry("faq", ask("a"), **GONE), place.entry("docs", ask("c"), **GONE))
    assert set(place.rows()) == {"a", "c"}


def test_a_row_without_an_id_that_both_had_stays_while_one_has_it(place: Place) -> None:
    shared = {"question": "Why?", "answer": "So."}
    docs = {"question": "How?", "answer": "Thus."}
    faq, other = place.entry("faq", ask("a"), shared, **GONE), place.entry("docs", docs, shared)
    place.night(faq, other | GONE)
    assert len(place.rows()) == 3
    place.night(place.entry("faq", ask("a"), **GONE), other | GONE)
    assert len(place.rows()) == 3
    assert withdrawn_rows(place.raw) == {}
    place.night(place.entry("faq", ask("a"), **GONE), place.entry("docs", docs, **GONE))
    assert {row["question"] for row in place.rows().values()} == {"Is it a?", "How?"}


def test_ids_with_a_prefix_are_those_of_their_source(place: Place) -> None:
    faq, docs = {"id_prefix": "faq/", **GONE}, {"id_prefix": "docs/", **GONE}
    place.night(
        place.entry("faq", ask("1"), ask("2"), **faq),
        place.entry("docs", ask("1"), ask("2"), **docs),
    )
    place.night(
        place.entry("faq", ask("1"), ask("2"), **faq), place.entry("docs", ask("1"), **docs)
    )
    assert set(place.rows()) == {"faq/1", "faq/2", "docs/1"}


def test_more_than_the_share_of_one_source_refuses_the_night(place: Place) -> None:
    rows = [ask(f"r{number:02}") for number in range(20)]
    more = [ask(f"s{number:02}") for number in range(200)]
    bound = {"missing": "withdraw"}  # 10%
    place.night(place.entry("faq", *rows, **bound), place.entry("docs", *more, **bound))
    before = folder_files(place.raw)
    with pytest.raises(GateError, match=r"3 of 20 records that source faq gave .*\(15\.0%\)") as no:
        place.night(
            place.entry("faq", *rows[3:], ask("new"), **bound),
            place.entry("docs", *more[1:], **bound),
        )
    assert "raise max_missing_share in the entry of faq" in no.value.remedy
    assert folder_files(place.raw) == before
    place.night(place.entry("faq", *rows[2:], **bound), place.entry("docs", *more[1:], **bound))
    assert len(place.rows()) == 217


def test_a_renamed_source_takes_none_of_its_old_rows_away(place: Place) -> None:
    place.night(place.entry("faq", ask("a"), ask("b"), **GONE))
    place.night(place.entry("fresh", ask("c"), **GONE))
    assert set(place.rows()) == {"a", "b", "c"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_id_in_another_unicode_form_is_the_same_row(place: Place, form: Any) -> None:
    """An intake of before knows a row by its id as it was written."""
    name = unicodedata.normalize(form, "Übung é")
    place.night(place.entry("faq", ask(name), ask("b"), **GONE))
    [folder] = intake_folders(place.raw)
    table = parquet.read_table(folder / "digests.parquet")
    keys = [id_keys(name)[-1], id_keys("b")[0]]
    keys = pyarrow.array(keys, table.schema.field("key").type)
    table = table.set_column(table.column_names.index("key"), table.schema.field("key"), keys)
    parquet.write_table(table, folder / "digests.parquet")
    write_manifest(folder)

    other = unicodedata.normalize("NFC" if form == "NFD" else "NFD", name)
    place.night(place.entry("faq", ask(other), ask("b"), **GONE))
    assert withdrawn_rows(place.raw) == {}
    place.night(place.entry("faq", ask("b"), **GONE))
    assert set(place.rows()) == {"b"}
    place.night(place.entry("faq", ask(name), ask("b"), **GONE))
    assert len(place.rows()) == 2


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_current_is_what_a_source_has_whatever_its_kind(
    place: Place, offer: Offer, seed: int
) -> None:
    """Rows without ids come, are corrected, go and come back, beside a source that keeps all."""
    numbers = random.Random(seed)
    kept = place.entry("kept", ask("always"))
    offered: dict[str, str] = {"q0": "yes"}
    for _ in range(8):
        for name in numbers.sample([f"q{n}" for n in range(1, 9)], 3):
            if numbers.random() < 0.4:
                offered.pop(name, None)
            else:
                offered[name] = f"answer {numbers.randrange(3)}"
        rows = [{"question": f"What is {name}?", "answer": a} for name, a in offered.items()]
        numbers.shuffle(rows)
        place.night(offer(place.root, rows) | {**GONE, "max_missing_share": 1.0}, kept)
        found = {row["question"]: row["answer"] for row in place.rows().values()}
        expected = {f"What is {name}?": answer for name, answer in offered.items()}
        assert found == expected | {"Is it always?": "yes"}


def test_defaults_say_it_for_all_sources_and_an_entry_for_its_own(place: Place) -> None:
    content = ingestion_params(place.entry("faq", ask("a"))).model_dump()
    defaults = content["source_defaults"] | {"missing": "withdraw", "max_missing_share": 0.2}
    params = ingestion_params(
        place.entry("faq"), place.entry("docs", missing="keep"), source_defaults=defaults
    )
    assert [source.missing for source in params.sources] == ["withdraw", "keep"]
    assert [source.max_missing_share for source in params.sources] == [0.2, 0.2]
