"""Each decision's test records are counted from the ledger, whoever asks, and however old it is."""

import logging
from pathlib import Path

import pytest

from tasks.orchestration import rescore
from tasks.orchestration.rescore import count_record_use
from tasks.promotion.evidence import UseFiles
from tasks.records.schema import Message, Record, write_records
from tasks.registry.promote import record_verdict
from tasks.registry.record_use import last_use
from tasks.registry.versions import VERDICT_TAG
from tasks.scoring.record_use import RecordUse
from tasks.stage.errors import DataError
from tasks.stage.outputs import file_sha256
from tests.builders.registry import PARAMS, Shop

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescore, "get_run_logger", lambda: logging.getLogger("use"))


def write_split(folder: Path, numbers: range) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [
        Record(f"r{n}", (Message("user", f"q{n}"), Message("assistant", "a")), (), "s", f"r{n}",
               "test", "CC0", "n1")
        for n in numbers
    ]  # fmt: skip
    write_records(folder / "test.jsonl", rows)
    return folder / "test.jsonl"


def decide(shop: Shop, files: UseFiles | None, *, promoted: bool) -> None:
    """A verdict whose entry names the list of its test records, if there is one."""
    evidence = {} if files is None else {"test_records": file_sha256(files.records)}
    record_verdict(
        shop.ledger, shop.registry.version("adapter", 1), PARAMS, promoted=promoted,
        reason="because", evidence=evidence,
        tags={VERDICT_TAG: "promoted" if promoted else "refused"},
    )  # fmt: skip


def test_every_decision_counts_for_each_record_that_it_was_made_on(
    shop: Shop, tmp_path: Path
) -> None:
    shop.register("one")
    decide(shop, None, promoted=True)  # as before decisions kept a list
    first, later = (
        write_split(tmp_path / name, rows) for name, rows in (("a", range(10)), ("b", range(5, 20)))
    )
    for promoted in (True, False):
        files = count_record_use.fn(shop.ledger, first, tmp_path / "use")
        decide(shop, files, promoted=promoted)
    files = count_record_use.fn(shop.ledger, later, tmp_path / "use")
    found = RecordUse.read(files.counts)
    assert found == RecordUse(counts={0: 10, 2: 5}, uncounted=1)
    assert (found.records, found.median, found.most, found.above(1), found.above(2)) == (
        15, 0, 2, 5, 0,
    )  # fmt: skip
    decide(shop, files, promoted=True)
    elsewhere = count_record_use.fn(shop.ledger, later, tmp_path / "another machine")
    assert RecordUse.read(elsewhere.counts).counts == {1: 10, 3: 5}
    last = last_use(shop.ledger, tmp_path / "third")
    assert last == RecordUse(counts={1: 10, 3: 5}, uncounted=1)
    assert shop.faults() == ()


def test_a_list_that_is_lost_or_changed_leaves_its_decisions_uncounted(
    shop: Shop, tmp_path: Path
) -> None:
    shop.register("one")
    test = write_split(tmp_path / "a", range(10))
    decide(shop, count_record_use.fn(shop.ledger, test, tmp_path / "use"), promoted=True)
    [kept] = shop.root.glob("artifacts/**/files/*.npy")
    content = kept.read_bytes()
    for number, change in enumerate((lambda: kept.write_bytes(b"x"), kept.unlink)):
        change()
        other = write_split(tmp_path / "b", range(3))
        found = count_record_use.fn(shop.ledger, other, tmp_path / f"elsewhere{number}")
        assert RecordUse.read(found.counts) == RecordUse(counts={0: 3}, uncounted=1)
        assert last_use(shop.ledger, tmp_path / f"third{number}") is None
    again = count_record_use.fn(shop.ledger, test, tmp_path / "again")  # which keeps it once more
    assert kept.read_bytes() == content
    assert RecordUse.read(again.counts) == RecordUse(counts={1: 10}, uncounted=0)


def test_a_count_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record_use.json"
    for content in ("{}", '{"counts": {"-": 3}, "uncounted": 0}', '{"counts": {}, "uncounted": 0}'):
        path.write_text(content)
        with pytest.raises(DataError, match="does not tell how often"):
            RecordUse.read(path)
