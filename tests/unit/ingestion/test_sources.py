"""Several sources a night: each with its own mapping, marks, license, limit and failures."""

import json
import sqlite3
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.ingestion.intake_files import intake_folders, read_marks
from tasks.ingestion.intakes import TakenIn, not_read, take_in
from tasks.ingestion.params import IngestionParams
from tasks.ingestion.sources import opening, python_docs
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import folder_files, verified
from tasks.stage.params import StageParams, read_yaml, validate_params
from tasks.validation.features import parse_record
from tests.builders.ingestion import current_rows, files_entry, ingestion_params
from tests.builders.sources_of_rows import OFFERS
from tests.unit.ingestion.test_row_ids import made_rows, old_intake, packages

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def ask(name: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"id": name, "question": f"Is it {name}?", "answer": answer} | more


class Place:
    """A folder with files of rows, and the raw folder of its nights."""

    def __init__(self, root: Path) -> None:
        self.root, self.raw = root, root / "raw"
        self._nights = 0

    def write(self, name: str, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.root / name).write_text(text, encoding="utf-8")

    def entry(self, name: str, *rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """A source of one file of its name, written anew where rows are given."""
        if rows:
            self.write(f"{name}.jsonl", list(rows))
        return files_entry(self.root, f"{name}.jsonl", **{"name": name} | changes)

    def night(self, *entries: dict[str, Any]) -> TakenIn:
        self._nights += 1
        now = NOW + timedelta(days=self._nights)
        return take_in(ingestion_params(*entries), self.raw, now, accepted=self.root / "none")

    def about(self) -> dict[str, Any]:
        text = (intake_folders(self.raw)[-1] / "intake.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)
        return found

    def slices(self) -> dict[str, str]:
        """The slice of each current record, by id."""
        rows = current_rows(self.raw).rows()
        records = [parse_record(row.line.row or {}, "1", row.source) for row in rows]
        assert len({record.id for record in records}) == len(records)
        return {record.id: record.slice for record in records}

    def rows(self, kind: str = "records") -> dict[str, dict[str, Any]]:
        current = current_rows(self.raw, kind).rows()
        return {str(row.id): row.line.row or {} for row in current}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_one_intake_holds_the_rows_of_all_sources(place: Place) -> None:
    mapped = {"records": {"Q": "question", "A": "answer"}, "documents": {}}
    faq = place.entry("faq", {"id": "f", "Q": "Why?", "A": "So."}, columns=mapped)
    place.write("texts.jsonl", [{"id": "d", "text": "A text."}])
    docs = place.entry("docs", ask("a"), ask("b", slice="hard"), documents=["texts.jsonl"])

    taken = place.night(faq, docs)

    assert taken.intake is not None
    assert taken.left_out == {}
    assert verified(intake_folders(place.raw)[0]).name == taken.intake.name
    assert (taken.intake.records, taken.intake.documents) == (3, 1)
    assert [(s.name, s.kind, s.records, s.documents) for s in taken.intake.sources] == [
        ("faq", "files", 1, 0), ("docs", "files", 2, 1),
    ]  # fmt: skip
    assert place.slices() == {"f": "faq", "a": "docs", "b": "docs.hard"}
    assert place.night(faq, docs).intake is None


def test_a_set_of_one_source_keeps_its_own_slices(place: Place) -> None:
    faq = place.entry("faq", ask("a", slice="hard"), ask("b"))
    place.night(faq)
    assert place.slices() == {"a": "hard", "b": "all"}

    # A second one begins: the rows that are there are named too, and nothing else of them moves.
    place.night(faq, place.entry("docs", ask("c")))
    assert place.slices() == {"a": "faq.hard", "b": "faq", "c": "docs"}
    place.night(place.entry("faq", ask("a", slice="hard"), ask("b"), ask("d")))
    assert place.slices() == {"a": "hard", "b": "all", "c": "all", "d": "all"}


def test_a_row_goes_to_the_source_that_offers_it_now(place: Place) -> None:
    place.night(place.entry("old", ask("a"), ask("b")))
    renamed = place.entry("new", ask("a"), ask("b"))
    assert place.night(renamed).intake is None

    place.night(renamed, place.entry("docs", ask("c")))

    assert place.slices() == {"a": "new", "b": "new", "c": "docs"}
    assert place.night(renamed, place.entry("docs")).intake is None


def test_the_order_of_sources_moves_no_row(place: Place) -> None:
    faq, docs = (
        place.entry("faq", ask("a"), {"question": "Why?", "answer": "So."}),
        place.entry("docs", ask("c"), {"question": "Why?", "answer": "So."}),
    )
    place.night(faq, docs)
    before = place.slices()
    assert len(before) == 3

    assert place.night(docs, faq).intake is not None  # the row that both have is now of the first
    assert place.slices().keys() == before.keys()


def test_an_id_of_two_sources_is_refused_by_name(place: Place) -> None:
    faq, docs = (
        place.entry("faq", ask("1"), ask("2")),
        place.entry("docs", ask("3"), ask("2", "no")),
    )

    with pytest.raises(DataError) as caught:
        place.night(faq, docs)

    assert "id '2' is in source faq and in source docs" in caught.value.message
    assert "id_prefix in the entry of docs" in caught.value.remedy
    assert intake_folders(place.raw) == []
    place.night(faq, docs | {"id_prefix": "docs/"})
    assert place.slices() == {"1": "faq", "2": "faq", "docs/3": "docs", "docs/2": "docs"}
    assert place.night(faq, docs | {"id_prefix": "docs/"}).intake is None


def test_an_id_that_another_source_gave_on_an_earlier_night_is_refused(place: Place) -> None:
    path = place.root / "faq.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE faq (id TEXT, question TEXT, answer TEXT, at INTEGER)")
        connection.execute(
            "INSERT INTO faq VALUES ('1', 'Why?', 'So.', 1), ('2', 'How?', 'So.', 2)"
        )
    query = {"query": "SELECT * FROM faq", "since": "at"}
    sql = {"name": "sql", "kind": "sql", "sql": {"url": f"sqlite:///{path}", "records": query}}
    place.night(sql)

    with pytest.raises(DataError, match="id '1' is in source sql and in source faq"):
        place.night(sql, place.entry("faq", ask("1")))


def test_an_id_moves_with_its_row_from_one_whole_source_to_another(place: Place) -> None:
    place.night(place.entry("faq", ask("1"), ask("2")), place.entry("docs", ask("3")))

    place.night(place.entry("faq", ask("1")), place.entry("docs", ask("3"), ask("2", "moved")))

    assert place.slices() == {"1": "faq", "2": "docs", "3": "docs"}
    assert place.rows()["2"]["answer"] == "moved"


def test_a_prefix_is_put_before_the_documents_that_records_name(place: Place) -> None:
    place.write("texts.jsonl", [{"id": "d", "text": "A text."}])
    own = place.entry("own", ask("a", documents=["d"]), documents=["texts.jsonl"], id_prefix="own-")
    foreign = place.entry("foreign", ask("a", documents=["own-d"]), id_prefix="f-")

    place.night(own, foreign)

    assert place.rows("documents").keys() == {"own-d"}
    named = {name: row["documents"] for name, row in place.rows().items()}
    assert named == {"own-a": ["own-d"], "f-a": ["own-d"]}


def test_a_source_gives_its_license_to_rows_that_have_none(place: Place) -> None:
    place.write("texts.jsonl", [{"id": "d", "text": "A text."}])
    bare = {"question": "Why?", "answer": "So."}
    rows = (ask("a"), ask("b", license="MIT"), bare)
    faq = place.entry("faq", *rows, license="CC0-1.0", documents=["texts.jsonl"])

    place.night(faq, place.entry("docs", ask("c")))

    found = {name: row.get("license") for name, row in place.rows().items()}
    [derived] = [name for name in found if name.startswith("row-")]
    assert found == {"a": "CC0-1.0", "b": "MIT", derived: "CC0-1.0", "c": None}
    assert place.rows("documents")["d"]["license"] == "CC0-1.0"
    # Another license is another content of the same row.
    place.night(faq | {"license": "CC-BY-4.0"}, place.entry("docs"))
    assert place.rows()[derived]["license"] == "CC-BY-4.0"
    assert len(place.rows()) == 4


def test_a_limit_is_of_one_source_and_keeps_the_documents_that_others_need(place: Place) -> None:
    names = [f"{n:03}" for n in range(60)]
    place.write("texts.jsonl", [{"id": f"d{name}", "text": f"Text {name}."} for name in names])
    docs = files_entry(place.root, name="docs", documents=["texts.jsonl"], limit=5)
    faq = place.entry("faq", *(ask(name, documents=[f"d{name}"]) for name in names), limit=10)

    taken = place.night(docs, faq)

    assert taken.intake is not None
    assert [(s.records, s.documents) for s in taken.intake.sources] == [(0, 20), (10, 0)]
    needed = {row["documents"][0] for row in place.rows().values()}
    assert needed <= place.rows("documents").keys()


def test_a_source_that_fails_ends_the_night(place: Place) -> None:
    faq, gone = place.entry("faq", ask("a")), place.entry("gone")

    with pytest.raises(DataError, match=r"source gone: no file gone\.jsonl"):
        place.night(faq, gone)

    assert intake_folders(place.raw) == []


def test_a_source_that_may_be_skipped_is_left_out_and_named(place: Place) -> None:
    faq, gone = place.entry("faq", ask("a")), place.entry("gone", on_failure="skip")

    taken = place.night(gone, faq)

    assert taken.intake is not None
    assert list(taken.left_out) == ["gone"]
    assert "no file gone.jsonl" in taken.left_out["gone"]
    assert "what to do: mend the path in files" in taken.left_out["gone"]
    by_name = {source["name"]: source for source in place.about()["sources"]}
    assert by_name["gone"]["left_out"] == taken.left_out["gone"]
    assert place.slices() == {"a": "faq"}
    # A night with nothing new says it as well.
    again = place.night(gone, faq)
    assert again.intake is None
    assert list(again.left_out) == ["gone"]
    place.write("gone.jsonl", [ask("b")])
    assert place.night(gone, faq).left_out == {}
    assert place.slices() == {"a": "faq", "b": "gone"}


@pytest.mark.parametrize("error", [DataError("it broke", "mend it"), RuntimeError("no network")])
def test_a_source_that_fails_midway_leaves_nothing_behind(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def read(self: Any, kind: str) -> Any:
        for found in whole(self, kind):
            if kind == "documents" and found.line.row["id"] == "broken":
                raise error
            yield found

    whole = opening.FilesSource.read
    monkeypatch.setattr(opening.FilesSource, "read", read)
    texts = [{"id": "fine", "text": "A text."}, {"id": "broken", "text": "Another."}]
    place.write("texts.jsonl", texts)
    bad = place.entry("bad", ask("b"), documents=["texts.jsonl"])
    faq = place.entry("faq", ask("a"))

    with pytest.raises(type(error)):
        place.night(bad, faq)
    taken = place.night(bad | {"on_failure": "skip"}, faq)

    assert str(error).splitlines()[0] in taken.left_out["bad"]
    assert place.rows().keys() == {"a"}
    assert place.rows("documents") == {}
    assert verified(intake_folders(place.raw)[0])
    assert len(list((place.raw / "intakes").iterdir())) == 1


def test_a_night_without_any_source_that_can_be_read_fails(place: Place) -> None:
    gone = [place.entry(name, on_failure="skip") for name in ("gone", "lost")]
    with pytest.raises(DataError, match="no source could be read") as caught:
        place.night(*gone)
    assert "gone.jsonl" in caught.value.message
    assert "lost.jsonl" in caught.value.message


def test_a_source_without_records_fails_alone(place: Place) -> None:
    place.write("empty.jsonl", [])
    empty = place.entry("empty", on_failure="skip")
    taken = place.night(place.entry("faq", ask("a")), empty)
    assert "holds no rows" in taken.left_out["empty"]


def test_marks_are_a_source_s_own(place: Place) -> None:
    path = place.root / "faq.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE faq (id TEXT, question TEXT, answer TEXT, at INTEGER)")
        connection.execute("INSERT INTO faq VALUES ('1', 'Why?', 'So.', 5)")
    query = {"query": "SELECT * FROM faq", "since": "at"}
    first = {"name": "one", "kind": "sql", "sql": {"url": f"sqlite:///{path}", "records": query}}
    place.night(first, place.entry("faq", ask("a")))

    assert [mark["records"].value for mark in read_marks(place.raw, "one") if mark] == ["5"]
    assert [mark for mark in read_marks(place.raw, "faq") if mark] == []
    # Another source that asks the same begins from the start.
    other = first | {"name": "two", "id_prefix": "two-"}
    place.night(first, other, place.entry("faq"))
    assert place.slices() == {"1": "one", "two-1": "two", "a": "faq"}


def test_the_stalest_source_says_how_old_the_data_are(place: Place) -> None:
    import os

    faq, docs = place.entry("faq", ask("a")), place.entry("docs", ask("b"))
    os.utime(place.root / "faq.jsonl", (1_700_000_000, 1_700_000_000))
    os.utime(place.root / "docs.jsonl", (1_600_000_000, 1_600_000_000))
    taken = place.night(faq, docs)
    assert taken.intake is not None
    assert taken.intake.source_updated == "2020-09-13T12:26:40+00:00"


def test_equal_input_gives_equal_bytes(place: Place) -> None:
    entries = [place.entry("faq", ask("a")), place.entry("docs", ask("b"), ask("c"))]
    for name in ("one", "two"):
        raw = place.root / name / "raw"
        take_in(ingestion_params(*entries), raw, NOW, accepted=raw)
    assert folder_files(place.root / "one") == folder_files(place.root / "two")


class _OneFile(StageParams):
    ingestion: IngestionParams


@pytest.mark.parametrize("dialect", [{}, {"encoding": "cp949", "delimiter": ";"}])
@pytest.mark.parametrize("text", [{}, {"as_text": ["answer"]}])
def test_params_of_one_source_are_refused_with_the_yaml_of_today(
    dialect: dict[str, Any], text: dict[str, Any]
) -> None:
    old = {
        "source": "files",
        "packages": ["stdlib"], "document_characters": 600, "unanswerable_share": 0.12,
        "limit": 500,
        "longest_line_bytes": 10_000_000,
        "files": {"root": "Daten/Neu", "records": ["Fragen*.csv"], "documents": []} | dialect,
        "hub": {"name": None, "config": None, "revision": None, "split": "train",
                "documents_split": None},
        "sql": {"url": None, "url_variable": None, "records": {"query": None, "since": None},
                "documents": {"query": None, "since": None}},
        "columns": {"records": {"Frage": "question", "Antwort": "answer"}, "documents": {}} | text,
    }  # fmt: skip

    with pytest.raises(ConfigError) as caught:
        validate_params(_OneFile, {"ingestion": old}, [])

    _, _, said = caught.value.message.partition("Yours is written:\n")
    shown = yaml.safe_load(said)
    assert shown == {
        "sources": [
            {
                "name": "files",
                "kind": "files",
                "limit": 500,
                "files": {"root": "Daten/Neu", "records": ["Fragen*.csv"]} | dialect,
                "columns": {"records": {"Frage": "question", "Antwort": "answer"}} | text,
            }
        ]
    }
    assert "in place of the `sources`" in caught.value.remedy
    now = read_yaml(Path("params/ingestion.yaml")) | shown
    [source] = IngestionParams.model_validate(now).sources
    assert source.files.root == "Daten/Neu"
    assert source.columns.records["Frage"] == "question"
    assert source.files.json_lines
    assert (source.files.encoding, source.columns.as_text) == (
        dialect.get("encoding"),
        text.get("as_text", []),
    )


def test_the_default_params_read_python_s_docstrings() -> None:
    params = IngestionParams.model_validate(read_yaml(Path("params/ingestion.yaml")))
    [source] = params.sources
    assert (source.name, source.kind, source.limit) == ("python_docs", "python_docs", None)
    assert source.python_docs.packages == ["stdlib"]
    assert params.weights == {}


def test_the_weight_of_an_only_source_is_none() -> None:
    entry = {"name": "docs", "kind": "python_docs"}
    assert ingestion_params(entry | {"weight": 7.0}).weights == {}
    other = entry | {"name": "more", "weight": 1.0}
    assert ingestion_params(entry | {"weight": 7.0}, other).weights == {"docs": 7.0, "more": 1.0}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "at least 1 item"),
        ([{"name": "a", "kind": "files"}], "must give files.records or files.documents"),
        ([{"name": "a", "kind": "hub", "files": {"root": "x"}}], "has a section files"),
        ([{"name": "A b", "kind": "python_docs"}], "sources.0.name"),
        ([{"name": "a", "kind": "python_docs"}] * 2, "two are named a"),
        (
            [
                {"name": "a", "kind": "python_docs", "weight": 2.0},
                {"name": "b", "kind": "python_docs"},
            ],
            "a has a weight and b has none",
        ),
        ([{"name": "a", "kind": "python_docs", "weight": 0.0}], "greater than 0"),
        (
            [{"name": "a", "kind": "files", "files": {"documents": ["d"]}}],
            "none of a gives records",
        ),
        ([{"name": "a", "kind": "python_docs", "wait": 1}], "extra"),
        (
            [{"name": "a", "kind": "feedback", "columns": {"records": {"Q": "question"}}}],
            "kind feedback, whose rows have our columns",
        ),
    ],
)
def test_entries_that_cannot_work_are_refused(entries: list[Any], said: str) -> None:
    content = read_yaml(Path("params/ingestion.yaml")) | {"sources": entries}
    with pytest.raises(ConfigError, match=said):
        validate_params(_OneFile, {"ingestion": content}, [])


def test_a_row_that_one_source_corrects_is_not_taken_for_another_s(place: Place) -> None:
    why = {"question": "Why?", "answer": "So."}
    faq, docs = place.entry("faq", why, ask("a")), place.entry("docs", ask("b"))
    place.night(faq, docs)

    place.night(faq, place.entry("docs", ask("b"), why | {"answer": "For no reason."}))

    answers = [row["answer"] for row in place.rows().values() if row["question"] == "Why?"]
    assert sorted(answers) == ["For no reason.", "So."]
    # The one that has it corrects it.
    place.night(place.entry("faq", why | {"answer": "Because."}, ask("a")), docs)
    answers = [row["answer"] for row in place.rows().values() if row["question"] == "Why?"]
    assert sorted(answers) == ["Because.", "For no reason."]


def test_every_kind_goes_into_one_night(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(python_docs, "_collect", lambda _: packages(range(10)))
    docs = {"name": "docs", "kind": "python_docs", "python_docs": {"packages": ["pack"]}}
    entries = [docs]
    for number, kind in enumerate(("csv", "parquet", "hub", "sql")):
        folder = tmp_path / kind
        folder.mkdir()
        rows = made_rows(6, first=number * 10)
        entries.append(OFFERS[kind](folder, rows) | {"name": f"of-{kind}"})

    taken = place.night(*entries)

    assert taken.intake is not None
    assert {s.name: s.records > 5 for s in taken.intake.sources} == {
        str(entry["name"]): True for entry in entries
    }
    labels = {label.partition(".")[0] for label in place.slices().values()}
    assert labels == {"docs", "of-csv", "of-parquet", "of-hub", "of-sql"}
    assert place.night(*entries).intake is None


def test_rows_of_a_time_of_one_source_are_that_kind_s(place: Place) -> None:
    rows = [ask("a", slice="hard"), ask("b")]
    old_intake(place.raw, "python_docs", rows, "python-3.11")
    assert place.slices() == {"a": "hard", "b": "all"}

    named = place.entry("python_docs", *rows)
    taken = place.night(named, place.entry("faq", ask("c")))

    assert taken.intake is not None
    assert taken.intake.records == 1
    assert place.slices() == {"a": "python_docs.hard", "b": "python_docs", "c": "faq"}


def test_what_nobody_reads_is_counted_by_source_and_for_all(place: Place) -> None:
    mapped = {"records": {"Frage": "question", "Not": "note"}}
    faq = place.entry("faq", ask("a", url="x", note=1), ask("b", url="y"), columns=mapped)
    docs = place.entry("docs", ask("c", url="z"), ask("d"), columns={"records": {"Thema": "slice"}})

    taken = place.night(faq, docs)

    assert taken.intake is not None
    of_faq, of_docs = taken.intake.sources
    assert (of_faq.unread["records"], of_docs.unread["records"]) == (
        {"note": 1, "url": 2},
        {"url": 1},
    )
    assert (of_faq.unmet["records"], of_docs.unmet["records"]) == (["Frage", "Not"], ["Thema"])
    assert place.about()["unread"] == {"records": {"note": 1, "url": 3}, "documents": {}}
    assert place.about()["unmet"] == {
        "records": ["Frage (of faq)", "Not (of faq)", "Thema (of docs)"],
        "documents": [],
    }
    assert "url (1 rows)" in not_read(of_docs)[0]
    assert "url (3 rows)" in not_read(taken.intake)[0]


def test_columns_that_all_files_are_to_have_are_no_matter_of_docstrings(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_docs, "_collect", lambda _: packages(range(10)))
    docs = {"name": "docs", "kind": "python_docs", "python_docs": {"packages": ["pack"]}}
    content = read_yaml(Path("params/ingestion.yaml"))["source_defaults"]
    defaults = content | {"columns": content["columns"] | {"records": {"Frage": "question"}}}
    faq = place.entry("faq", {"id": "a", "Frage": "Why?", "answer": "So."})
    params = ingestion_params(faq, docs, source_defaults=defaults)

    taken = take_in(params, place.raw, NOW, accepted=place.root / "none").intake

    assert taken is not None
    assert taken.unmet == {"records": [], "documents": []}


def test_each_source_is_read_in_its_own_encoding_and_with_its_own_texts(place: Place) -> None:
    (place.root / "ko.csv").write_bytes("id;질문;답\na;언제?;7\n".encode("cp949"))
    (place.root / "de.csv").write_text("id,question,answer\nb,Wann?,true\n", encoding="utf-8")
    ko = files_entry(place.root, "ko.csv", name="ko")
    ko["files"] |= {"encoding": "cp949", "delimiter": ";"}
    ko["columns"] = {"records": {"질문": "question", "답": "answer"}}

    place.night(ko, files_entry(place.root, "de.csv", name="de"))

    assert {name: row["question"] for name, row in place.rows().items()} == {
        "a": "언제?",
        "b": "Wann?",
    }


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_ids_of_several_sources_are_compared_in_one_unicode_form(place: Place, stored: str) -> None:
    offered = "NFD" if stored == "NFC" else "NFC"
    first, second = (unicodedata.normalize(form, "휴가 é") for form in (stored, offered))
    faq, docs = place.entry("faq", ask(first), ask("b")), place.entry("docs", ask("c"))
    place.night(faq, docs)

    # Nothing is new where a source writes its names in the other form.
    same = place.night(place.entry("faq", ask(second), ask("b")), docs)
    assert same.intake is None or same.intake.sources[0].records == 1
    assert place.night(place.entry("faq", ask(second), ask("b")), docs).intake is None
    assert len(place.rows()) == 3
    with pytest.raises(DataError, match="is in source faq and in source docs"):
        place.night(place.entry("faq", ask(second)), place.entry("docs", ask(first)))
