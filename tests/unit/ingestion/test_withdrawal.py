"""An intake can be taken back, and rows that left their source are no longer learned from."""

import json
import logging
import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet
from pydantic import ValidationError

from tasks.ingestion import intakes
from tasks.ingestion.intake_files import intake_folders, read_marks
from tasks.ingestion.intakes import Intake, TakenIn, take_in
from tasks.ingestion.params import IngestionParams
from tasks.ingestion.withdrawal import (
    list_intakes,
    restore_intake,
    withdraw_intake,
)
from tasks.records.withdrawals import withdrawn_intakes, withdrawn_rows
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError, GateError
from tasks.stage.outputs import folder_files, output_folders, write_manifest
from tasks.validation.raw_rows import intake_folders as current_folders
from tests.builders.ingestion import current_rows, files_entry, ingestion_params

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Nights:
    """Nights that take rows in from one file; each is a day after the last."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root, self.raw, self.day = root, root / "raw", 0
        self.changes = {"missing": "withdraw", "max_missing_share": 0.5} | changes

    def params(self, **changes: Any) -> IngestionParams:
        documents = ["documents.jsonl"] if (self.root / "documents.jsonl").exists() else []
        entry = files_entry(self.root, "records.jsonl", documents=documents)
        return ingestion_params(entry | self.changes | changes)

    def offer(self, rows: Iterable[Any], kind: str = "records") -> None:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (self.root / f"{kind}.jsonl").write_text("".join(f"{x}\n" for x in lines), "utf-8")

    def night(self, rows: Iterable[Any] | None = None, **changes: Any) -> Intake | None:
        return self.take(rows, **changes).intake

    def take(self, rows: Iterable[Any] | None = None, **changes: Any) -> TakenIn:
        if rows is not None:
            self.offer(rows)
        self.day += 1
        now = NOW + timedelta(days=self.day)
        return take_in(self.params(**changes), self.raw, now, accepted=self.root / "accepted")

    def take_back(self, name: str, reason: str = "mapped wrongly") -> None:
        self.day += 1
        now = NOW + timedelta(days=self.day)
        withdraw_intake(self.raw, name, reason=reason, by="ann", now=now)

    def current(self, kind: str = "records") -> dict[str | None, str]:
        """What is current: id -> answer or text."""
        found = current_rows(self.raw, kind)
        rows = [(row.id, row.line.row or {}) for row in found.rows()]
        names = [name for name, _ in rows if name is not None]
        assert len(set(names)) == len(names), "an id is current twice"
        return {name: str(row.get("answer", row.get("text"))) for name, row in rows}


def ask(name: str, answer: str = "yes") -> dict[str, str]:
    return {"id": name, "question": f"Is it {name}?", "answer": answer}


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_a_wrong_import_is_taken_back_and_taken_in_again(nights: Nights) -> None:
    nights.changes["missing"] = "keep"
    rows = [{"q": f"Is it {n}?", "a": "yes"} for n in range(9)]
    wrong = nights.night(rows)
    columns = {"records": {"q": "question", "a": "answer"}, "documents": {}}
    mended = nights.night(rows, columns=columns)
    assert wrong is not None
    assert mended is not None
    assert len(nights.current()) == 18  # nine of them in quarantine for ever

    nights.take_back(wrong.name)

    assert len(nights.current()) == 9
    assert set(nights.current().values()) == {"yes"}
    assert nights.night(rows, columns=columns) is None  # the mended ones are known


def test_rows_of_a_withdrawn_intake_come_in_again(nights: Nights) -> None:
    first = nights.night([ask("a"), ask("b")])
    assert first is not None
    before = folder_files(nights.raw / "intakes")
    nights.take_back(first.name)
    assert folder_files(nights.raw / "intakes") == before  # it stays as it is
    with pytest.raises(Exception, match="no intake that was not withdrawn"):
        current_folders(nights.raw)

    again = nights.night()

    assert again is not None
    assert (again.records, set(nights.current())) == (2, {"a", "b"})


def test_what_a_withdrawn_intake_had_replaced_is_current_again(nights: Nights) -> None:
    nights.night([ask("a", "old"), ask("b")])
    second = nights.night([ask("a", "wrong"), ask("b")])
    assert second is not None
    nights.take_back(second.name)
    assert nights.current() == {"a": "old", "b": "yes"}
    restore_intake(nights.raw, second.name)
    assert nights.current() == {"a": "wrong", "b": "yes"}


def test_the_list_says_which_intakes_are_withdrawn_and_why(nights: Nights) -> None:
    first = nights.night([ask("a"), "{broken"])
    second = nights.night([ask("a"), ask("b"), "{broken"])
    assert first is not None
    assert second is not None
    nights.take_back(second.name, "two of them were a test")
    old, new = list_intakes(nights.raw)
    assert (old.name, old.source, old.records, old.faulty) == (first.name, "files", 2, 1)
    assert old.withdrawn is None
    assert new.withdrawn is not None
    assert (new.withdrawn.reason, new.withdrawn.by) == ("two of them were a test", "ann")


def test_an_unknown_or_withdrawn_intake_is_told(nights: Nights) -> None:
    first = nights.night([ask("a")])
    assert first is not None
    with pytest.raises(ConfigError, match=f"no intake 'x'; found {first.name}"):
        nights.take_back("x")
    with pytest.raises(ConfigError, match="is not withdrawn"):
        restore_intake(nights.raw, first.name)
    nights.take_back(first.name, "once")
    with pytest.raises(ConfigError, match=r"withdrawn already, on .* by ann: once") as caught:
        nights.take_back(first.name, "twice")
    assert "--undo" in caught.value.remedy


def test_a_set_that_held_a_withdrawn_intake_is_no_reference(
    nights: Nights, caplog: pytest.LogCaptureFixture
) -> None:
    first = nights.night([ask("a")])
    assert first is not None
    with output_folders(nights.root / "accepted") as (accepted,):
        (accepted / "profile.json").write_text("{}", encoding="utf-8")
        parquet.write_table(pyarrow.table({"intake": [first.name]}), accepted / "places.parquet")
    kept = nights.night([ask("a"), ask("b")])
    assert kept is not None
    assert (nights.raw / "intakes" / kept.name / "reference.json").exists()
    nights.take_back(first.name)
    later = nights.night([ask("a"), ask("b"), ask("c")])
    assert later is not None
    assert not (nights.raw / "intakes" / later.name / "reference.json").exists()
    assert f"held intake {first.name}, which was withdrawn" in caplog.text


def test_a_query_asks_again_from_before_a_withdrawn_intake(tmp_path: Path) -> None:
    database = tmp_path / "faq.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE faq (id INTEGER, question TEXT, answer TEXT)")

    def night(day: int, number: int | None = None) -> Intake | None:
        if number is not None:
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute(f"INSERT INTO faq VALUES ({number}, 'Is it {number}?', 'yes')")
        query = {"query": "SELECT * FROM faq", "since": "id"}
        sql = {"url": f"sqlite:///{database}", "records": query}
        params = ingestion_params({"name": "faq", "kind": "sql", "sql": sql})
        now = NOW + timedelta(days=day)
        return take_in(params, tmp_path / "raw", now, accepted=tmp_path / "x").intake

    names = []
    for day, number in enumerate((1, 2, 3)):
        found = night(day, number)
        assert found is not None
        names.append(found.name)
    withdraw_intake(tmp_path / "raw", names[1], reason="why", by="ann", now=NOW)
    assert [mark["records"].value for mark in read_marks(tmp_path / "raw", "faq")] == ["1"]
    again = night(4, 4)
    assert again is not None
    assert again.records == 2  # the second one and the fourth; the third is known
    assert night(5) is None
    assert [mark["records"].value for mark in read_marks(tmp_path / "raw", "faq")] == ["1", "4"]


# Rows that left their source.


def test_a_row_that_left_its_source_is_no_longer_current(nights: Nights) -> None:
    nights.offer([{"id": "d", "text": "A text."}, {"id": "e", "text": "Another."}], "documents")
    nights.night([ask(name) for name in "abc"])
    nights.offer([{"id": "e", "text": "Another."}], "documents")
    assert nights.night([ask("a"), ask("c")]) is None
    assert set(nights.current()) == {"a", "c"}
    assert set(nights.current("documents")) == {"e"}
    [(_, rows)] = withdrawn_rows(nights.raw).items()
    assert [(row.kind, row.id) for row in rows] == [("records", "b"), ("documents", "d")]
    assert rows[0].reason == "source files no longer has it"


def test_it_comes_back_if_its_source_has_it_again(nights: Nights) -> None:
    rows = [ask(name) for name in "abc"]
    nights.night(rows)
    nights.night(rows[:2])
    back = nights.night(rows)
    assert back is not None
    assert (back.records, set(nights.current())) == (1, {"a", "b", "c"})
    nights.night(rows[:2])
    assert set(nights.current()) == {"a", "b"}


def test_by_default_rows_that_left_are_kept(nights: Nights) -> None:
    content = yaml.safe_load(Path("params/ingestion.yaml").read_text(encoding="utf-8"))
    assert content["source_defaults"]["missing"] == "keep"
    nights.night([ask("a"), ask("b")])
    nights.night([ask("a")], missing="keep")
    assert set(nights.current()) == {"a", "b"}


def test_a_night_that_misses_too_many_rows_is_refused(nights: Nights) -> None:
    rows = [ask(f"r{number:02}") for number in range(20)]
    nights.night(rows)
    before = folder_files(nights.raw)
    with pytest.raises(GateError, match=r"3 of 20 records .* missing .* \(15\.0%\)") as caught:
        nights.night(rows[3:], max_missing_share=0.10)
    assert "raise max_missing_share in the entry of files" in caught.value.remedy
    assert folder_files(nights.raw) == before
    nights.night(rows[2:], max_missing_share=0.10)
    assert len(nights.current()) == 18


def test_nothing_is_withdrawn_where_a_new_line_can_not_be_read(nights: Nights) -> None:
    nights.night([ask("a"), ask("b"), "{old fault"])
    nights.night([ask("a"), '{"id": "b", ', "{old fault"])
    assert {"a", "b"} <= set(nights.current())
    nights.night([ask("a"), '{"id": "b", ', "{old fault"])  # the fault is known by now
    assert set(nights.current()) == {"a", None}


def test_a_faulty_line_that_left_is_no_longer_current(nights: Nights) -> None:
    nights.night([ask("a"), "{broken"])
    nights.night([ask("a")])
    assert set(nights.current()) == {"a"}
    nights.night([ask("a"), "{broken"])
    assert set(nights.current()) == {"a", None}


def test_a_limit_is_not_an_absence(nights: Nights) -> None:
    rows = [ask(f"r{number:03}") for number in range(60)]
    nights.night(rows[:30], limit=10)
    nights.night(rows, limit=10)  # other rows have the lowest hashes now
    assert withdrawn_rows(nights.raw) == {}


def test_rows_of_another_source_are_not_missing(nights: Nights) -> None:
    nights.night([ask(name) for name in "abcdef"])
    nights.night([ask("z")], name="faq")
    assert len(nights.current()) == 7


@pytest.mark.parametrize(("source", "left"), [("files", 1), ("hub", 3)])
def test_rows_of_before_there_were_several_sources_are_those_of_the_source_named_so(
    nights: Nights, source: str, left: int
) -> None:
    first = nights.night([ask("a"), ask("b")])
    assert first is not None
    folder = nights.raw / "intakes" / first.name
    content = json.loads((folder / "intake.json").read_text())
    del content["sources"]
    (folder / "intake.json").write_text(json.dumps(content | {"source": source}))
    digests = parquet.read_table(folder / "digests.parquet")
    parquet.write_table(digests.drop_columns(["source"]), folder / "digests.parquet")
    write_manifest(folder)
    nights.night([ask("c")], max_missing_share=1.0)
    assert len(nights.current()) == left


def test_a_query_for_what_is_new_can_not_say_what_is_missing() -> None:
    query = {"query": "SELECT 1", "since": "id"}
    sql = {"url": "sqlite://", "records": query}
    faq = {"name": "faq", "kind": "sql", "sql": sql}
    with pytest.raises(ValidationError, match=r"set sql\.records\.since .* to null"):
        ingestion_params(faq | {"missing": "withdraw"})
    marks = {"name": "marks", "kind": "feedback"}
    with pytest.raises(ValidationError, match=r"source marks: .*`missing: keep` in its entry"):
        ingestion_params(marks | {"missing": "withdraw"})


@pytest.mark.parametrize("seed", range(6))
def test_what_is_current_follows_from_the_nights_alone(nights: Nights, seed: int) -> None:
    """Rows come, change, go and come back, intakes are taken back: a plain model agrees."""
    numbers = random.Random(seed)
    names = ["a", "b b", "질문", "é", "row-1", "7", "x/y", "{}"]
    offered: dict[str, str] = {}
    for day in range(12):
        for name in numbers.sample(names, 4):
            if numbers.random() < 0.4:
                offered.pop(name, None)
            else:
                offered[name] = f"{name} {numbers.randrange(3)}"
        offered.setdefault("always", "there")
        rows = [ask(name, answer) for name, answer in offered.items()]
        numbers.shuffle(rows)
        nights.night(rows, max_missing_share=1.0)
        assert nights.current() == offered
        current = [item for item in list_intakes(nights.raw) if item.withdrawn is None]
        if day % 4 == 3 and current:
            nights.take_back(numbers.choice(current).name)
            nights.night(max_missing_share=1.0)
            # A row that only a withdrawn intake held, and that is offered, was taken in again.
            assert nights.current() == offered
    assert withdrawn_intakes(nights.raw)
    assert len(intake_folders(nights.raw)) > len(withdrawn_intakes(nights.raw))


def test_a_night_says_what_it_withdrew(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(intakes, "get_run_logger", lambda: logging.getLogger("night"))
    nights.night([ask("a"), ask("b"), ask("c")])
    nights.offer([ask("a"), ask("b")])
    stores = Stores("sqlite://", None)
    intakes.ingest.fn(nights.params(), nights.raw, nights.root / "accepted", stores)
    assert set(nights.current()) == {"a", "b"}
    assert "1 records are withdrawn: source files no longer has them" in caplog.text
