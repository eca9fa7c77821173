"""An erased row leaves its intakes byte by byte, and does not come back."""

import json
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from tasks.ingestion.erased_rows import ErasedRows, erased_file
from tasks.ingestion.erasure import (
    check_named,
    erase_from,
    erased_row,
    find_erased,
    find_rows,
    told_by,
)
from tasks.ingestion.intake_files import intake_folders, read_known
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import folder_files, verified
from tests.builders.byte_search import files_with
from tests.unit.ingestion.test_withdrawal import NOW, Nights, ask

CANARY = "The canary Zorblax sang its verse at three in the morning."


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path, missing="keep")


def erase(nights: Nights, *names: str) -> ErasedRows:
    found = find_rows(nights.raw, names)
    known = ErasedRows.read(erased_file(nights.raw))
    check_named(names, found, known)
    told, salt = told_by(found, [nights.raw], ""), known.salt
    more = [
        erased_row(x, erasure="e1", salt=salt, reason="asked for", by="ann", now=NOW) for x in found
    ]
    known = known.joined(ErasedRows(tuple(more)))
    known.write(erased_file(nights.raw))
    erase_from(nights.raw, found, told, known)
    return known


@pytest.mark.parametrize("name", ["plain", "질문 7", "a/b", "q\"uote'", "42"])
def test_a_row_leaves_every_byte_of_the_raw_folder(nights: Nights, name: str) -> None:
    nights.night([ask("a"), ask(name, CANARY), ask("z")])
    nights.night([ask("a"), ask(name, CANARY + " Twice."), ask("z")])
    assert len(files_with(nights.raw, [CANARY])) == 2
    before = {folder.name: folder_files(folder) for folder in intake_folders(nights.raw)}

    known = erase(nights, name)

    assert files_with(nights.raw, [CANARY]) == []
    assert set(nights.current()) == {"a", "z"}
    assert len(known.rows) == 2
    for folder in intake_folders(nights.raw):
        verified(folder)
        assert folder_files(folder) != before[folder.name]
        noted = json.loads((folder / "intake.json").read_text())["erased"]
        assert [(row["kind"], row["id"]) for row in noted] == [("records", name)]
        assert noted[0]["hash"] in {row.content_hash for row in known.rows}
    first = intake_folders(nights.raw)[0]
    assert [line["id"] for line in _lines(first)] == ["a", "z"]
    assert len((first / "records.jsonl").read_bytes().splitlines()) == 3  # the others' places hold


def _lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "records.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def test_other_rows_keep_the_places_that_they_came_from(nights: Nights) -> None:
    from tasks.validation.raw_rows import Origins

    nights.night([ask("a"), ask("b", CANARY), ask("c")])
    erase(nights, "b")
    [folder] = intake_folders(nights.raw)
    files, lines = Origins.read(folder, "records").of([1, 3])
    assert (files.to_pylist(), lines.tolist()) == (["records.jsonl"] * 2, [1, 3])


def test_an_erased_row_is_not_taken_in_again_and_is_counted(nights: Nights) -> None:
    rows = [ask("a"), ask("b", CANARY)]
    nights.night(rows)
    erase(nights, "b")
    renamed = [ask("a"), {**ask("b", CANARY), "id": "another"}]  # by what it says
    changed = [ask("a"), ask("b", "Another answer.")]  # by its id
    for offered in (rows, renamed, changed):
        taken = nights.take(offered)
        assert taken.intake is None
        [said] = taken.warnings
        assert "source files offers 1 rows that were erased" in said
    assert nights.night([*rows, ask("c")]) is not None
    assert set(nights.current()) == {"a", "c"}
    assert files_with(nights.raw, [CANARY]) == []


def test_documents_and_faulty_lines_are_erased_too(nights: Nights) -> None:
    nights.offer([{"id": "d", "text": CANARY}, {"id": "e", "text": "Another text."}], "documents")
    broken = f'{{"id": "x", "question": "{CANARY}'
    doubled = f'{{"id": "y", "answer": "{CANARY}", "answer": "b"}}'
    intake = nights.night([ask("a"), broken, doubled])
    assert intake is not None
    with pytest.raises(ConfigError, match="no intake holds a row with the id 'x'"):
        erase(nights, "x")
    erase(nights, "d", f"{intake.name}/records.jsonl:2", "y")
    assert files_with(nights.raw, [CANARY]) == []
    assert nights.night() is None
    assert set(nights.current("documents")) == {"e"}


def test_a_withdrawn_line_without_an_id_leaves_no_digest_of_what_it_said(nights: Nights) -> None:
    broken = f'{{"question": "{CANARY}'
    intake = nights.night([ask("a"), broken], missing="withdraw")
    assert intake is not None
    nights.night([ask("a")], missing="withdraw", max_missing_share=1.0)
    key = blake2b(broken.encode(), digest_size=16).hexdigest()
    assert files_with(nights.raw, [key])
    erase(nights, f"{intake.name}/records.jsonl:2")
    assert files_with(nights.raw, [key, CANARY]) == []
    assert set(nights.current()) == {"a"}


def test_each_erased_row_is_listed_with_its_source(nights: Nights) -> None:
    nights.night([ask("a"), ask("b", CANARY)], name="faq")
    nights.night([ask("a"), ask("b", CANARY + " Again.")], name="docs")
    assert [row.source for row in erase(nights, "b").rows] == ["faq", "docs"]


def test_a_license_that_params_give_hides_no_erased_row(nights: Nights) -> None:
    row = {"question": "What did it sing?", "answer": CANARY}
    nights.night([ask("a"), row])
    [name] = set(nights.current()) - {"a"}
    erase(nights, str(name))
    renamed = {**row, "id": "another"}
    taken = nights.take([ask("a"), renamed], license="CC0-1.0")
    assert "offers 1 rows that were erased" in taken.warnings[0]
    assert files_with(nights.raw, [CANARY]) == []


def test_an_erased_answer_that_was_corrected_is_not_taken_in_again(nights: Nights) -> None:
    """A row without an id keeps the id of the first answer: each answer is refused by itself."""
    first, second = ({"question": "What did it sing?", "answer": x} for x in ("Oh.", CANARY))
    nights.night([ask("a"), first])
    nights.night([ask("a"), second])
    [name] = set(nights.current()) - {"a"}
    erase(nights, str(name))
    for offered in (first, second):
        assert nights.night([ask("a"), offered]) is None
    assert files_with(nights.raw, [CANARY]) == []


def test_a_limit_is_filled_by_other_rows_than_the_erased_ones(nights: Nights) -> None:
    rows = [ask(f"r{number:02}") for number in range(30)]
    nights.night(rows, limit=10)
    gone = sorted(str(name) for name in nights.current())[0]
    erase(nights, gone)
    taken = nights.take(rows, limit=10)
    assert taken.intake is not None
    assert taken.intake.records == 1
    assert "1 rows that were erased" in taken.warnings[0]
    assert len(nights.current()) == 10


def test_a_backup_that_brings_a_row_back_is_seen(nights: Nights, tmp_path: Path) -> None:
    import shutil

    nights.night([ask("a"), ask("b", CANARY)])
    backup = shutil.copytree(nights.raw, tmp_path / "backup")
    known = erase(nights, "b")
    assert find_erased(nights.raw, known) == []
    assert [row.name for row in find_erased(backup, known)] == ["b"]


def test_the_list_tells_nothing_of_what_a_row_said(nights: Nights) -> None:
    nights.night([ask("a"), ask("b", CANARY)])
    known = erase(nights, "b")
    text = erased_file(nights.raw).read_text()
    assert "Zorblax" not in text
    other = Nights(nights.root / "other", missing="keep")
    other.root.mkdir()
    other.night([ask("b", CANARY)])
    assert {row.content_hash for row in known.rows}.isdisjoint(
        row.content_hash for row in erase(other, "b").rows
    )  # another list, another salt


def test_what_was_erased_before_or_never_was_there_is_told(nights: Nights) -> None:
    nights.night([ask("a"), ask("b", CANARY)])
    erase(nights, "b")
    with pytest.raises(ConfigError, match=r"'b' was erased already, on .* by ann: asked for"):
        erase(nights, "b")
    before = folder_files(nights.raw)
    with pytest.raises(ConfigError, match="the id 'nobody'; nothing was erased"):
        erase(nights, "a", "nobody")
    assert folder_files(nights.raw) == before


def test_words_that_only_the_erased_row_used_leave_the_profile(nights: Nights) -> None:
    from tasks.stage.outputs import write_manifest

    nights.night([ask("a", "A common verse."), ask("b", CANARY)])
    [folder] = intake_folders(nights.raw)
    terms = {"zorblax": 0.1, "verse": 0.2, "canary": 0.1, "it": 0.3}
    profile = {"vocabulary": {"terms": terms}, "slices": {"all": 1.0}}
    (folder / "reference.json").write_text(json.dumps(profile))
    write_manifest(folder)
    erase(nights, "b")
    found = json.loads((verified(folder) / "reference.json").read_text())
    assert set(found["vocabulary"]["terms"]) == {"verse", "it"}


def test_what_other_rows_say_too_is_no_trace_of_the_erased_one(nights: Nights) -> None:
    shared = "This sentence stands in the document and in the answer."
    nights.offer([{"id": "d", "text": f"{shared} And more."}], "documents")
    nights.night([ask("a"), ask("b", f"{shared} {CANARY}")])
    told = told_by(find_rows(nights.raw, ["b"]), [nights.raw], "")
    assert told.others == ("d",)
    assert not told.traces.in_bytes(shared.encode(), ids=False)
    assert told.traces.in_bytes(f"x {CANARY} y".encode(), ids=False)


def test_known_rows_lose_what_was_erased(nights: Nights) -> None:
    nights.night([ask("a"), ask("b", CANARY)])
    assert len(read_known(nights.raw, owned=False)["records"].latest) == 2
    erase(nights, "b")
    assert len(read_known(nights.raw, owned=False)["records"].latest) == 1
    assert datetime.now(UTC) > NOW


def test_an_id_and_what_nightloom_says_itself_are_no_trace(nights: Nights) -> None:
    nights.night([ask("package.module.some_function", f"package.module.some_function {CANARY}")])
    nights.night([ask("x", "package.module.some_function"), ask("y", "tasks.validation.__main__")])
    found = find_rows(nights.raw, ["x", "y", "package.module.some_function"])
    told = told_by(found, [nights.raw], "python -m tasks.validation.__main__ --raw")
    assert not told.traces.in_bytes(b"package.module.some_function", ids=False)
    assert not told.traces.in_bytes(b"tasks.validation.__main__", ids=False)
    assert told.traces.in_bytes(CANARY.encode(), ids=False)
