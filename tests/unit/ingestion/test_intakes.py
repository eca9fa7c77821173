"""A night takes in what is new or changed, in a folder of its own, and nothing otherwise."""

import codecs
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from tasks.ingestion import intakes as ingestion
from tasks.ingestion.intake_files import intake_folders
from tasks.ingestion.intakes import Intake
from tasks.ingestion.params import IngestionParams
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import folder_files, verified, write_manifest
from tasks.stage.params import StageParams, read_yaml, validate_params
from tests.builders.ingestion import ingestion_params

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Write = Callable[..., IngestionParams]
REAL = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def given(tmp_path: Path) -> Write:
    """Writes record and document rows into files; gives the params that read them."""

    def write(
        records: list[Any], documents: list[Any] | None = None, limit: int | None = None
    ) -> IngestionParams:
        for name, rows in (("records", records), ("documents", documents or [])):
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return _params(
            limit=limit,
            files={
                "root": str(tmp_path),
                "records": ["records.jsonl"],
                "documents": ["documents.jsonl"] if documents else [],
            },
        )

    return write


def _params(**changes: Any) -> IngestionParams:
    return ingestion_params({"name": "files", "kind": "files"} | changes)


def _sql(since: str) -> dict[str, Any]:
    nothing = {"query": None, "since": None}
    records = {"query": "SELECT 1", "since": since}
    return {"url": "sqlite://", "url_variable": None, "records": records, "documents": nothing}


def take_in(params: IngestionParams, raw: Path, now: datetime) -> Intake | None:
    return ingestion.take_in(params, raw, now, accepted=raw.parent / "accepted").intake


def _rows(folder: Path, name: str = "records") -> list[Any]:
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _ask(identifier: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"id": identifier, "question": f"Is it {identifier}?", "answer": answer} | more


def test_the_first_night_takes_everything_in(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), _ask("b")], [{"id": "d", "text": "A text."}])

    intake = take_in(params, tmp_path / "raw", NOW)

    assert intake is not None
    assert intake.name.startswith("20260102T030405Z-")
    (folder,) = intake_folders(tmp_path / "raw")
    assert verified(folder).name == intake.name
    assert [row["id"] for row in _rows(folder)] == ["a", "b"]
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    assert (content["records"], content["documents"]) == (2, 1)


def test_a_night_with_nothing_new_writes_nothing(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a")])
    take_in(params, tmp_path / "raw", NOW)
    before = folder_files(tmp_path / "raw")

    assert take_in(params, tmp_path / "raw", NOW + timedelta(days=1)) is None
    assert folder_files(tmp_path / "raw") == before


def test_only_new_and_changed_rows_come_in(given: Write, tmp_path: Path) -> None:
    take_in(given([_ask("a"), _ask("b")]), tmp_path / "raw", NOW)

    changed = given([_ask("a"), _ask("b", "no"), _ask("c")])
    take_in(changed, tmp_path / "raw", NOW + timedelta(days=1))

    first, second = intake_folders(tmp_path / "raw")
    assert [(row["id"], row["answer"]) for row in _rows(second)] == [("b", "no"), ("c", "yes")]
    assert first.name < second.name


def test_a_row_that_changes_back_comes_in_again(given: Write, tmp_path: Path) -> None:
    for day, answer in enumerate(["yes", "no", "yes"]):
        take_in(given([_ask("a", answer)]), tmp_path / "raw", NOW + timedelta(days=day))

    assert len(intake_folders(tmp_path / "raw")) == 3


def test_intakes_sort_by_time_even_when_the_clock_is_set_back(given: Write, tmp_path: Path) -> None:
    first = take_in(given([_ask("a")]), tmp_path / "raw", NOW)
    second = take_in(given([_ask("b")]), tmp_path / "raw", NOW - timedelta(days=9))

    assert first is not None
    assert second is not None
    assert first.name < second.name


def test_a_broken_line_goes_along_as_it_is_and_once(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), '{"id": "b", ', '{"id": NaN}'])
    take_in(params, tmp_path / "raw", NOW)

    (folder,) = intake_folders(tmp_path / "raw")
    lines = (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ['{"id": "b", ', '{"id": NaN}']
    assert take_in(params, tmp_path / "raw", NOW + timedelta(days=1)) is None


def test_a_limit_keeps_the_documents_its_records_need(given: Write, tmp_path: Path) -> None:
    names = [f"{number:03}" for number in range(100)]
    records = [_ask(name, documents=[f"d{name}"]) for name in names]
    documents = [{"id": f"d{name}", "text": f"Text {name}"} for name in names]

    intake = take_in(given(records, documents, limit=10), tmp_path / "raw", NOW)

    (folder,) = intake_folders(tmp_path / "raw")
    needed = {row["documents"][0] for row in _rows(folder)}
    assert intake is not None
    assert (intake.records, intake.documents) == (10, 20)
    assert needed <= {row["id"] for row in _rows(folder, "documents")}


def test_a_missing_file_leaves_nothing_behind(tmp_path: Path) -> None:
    files = {"root": str(tmp_path), "records": ["nowhere.jsonl"], "documents": []}

    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        take_in(_params(files=files), tmp_path / "raw", NOW)

    assert not (tmp_path / "raw").exists()


def test_an_earlier_intake_that_was_edited_stops_the_night(given: Write, tmp_path: Path) -> None:
    take_in(given([_ask("a")]), tmp_path / "raw", NOW)
    (folder,) = intake_folders(tmp_path / "raw")
    (folder / "records.jsonl").write_text("{}\n", encoding="utf-8")

    with pytest.raises(DataError, match="does not match"):
        take_in(given([_ask("b")]), tmp_path / "raw", NOW)


def test_reference_is_the_profile_of_the_last_accepted_data(given: Write, tmp_path: Path) -> None:
    take_in(given([_ask("a")]), tmp_path / "raw", NOW)
    accepted = tmp_path / "accepted"
    accepted.mkdir()
    (accepted / "profile.json").write_text('{"records": 7}', encoding="utf-8")
    write_manifest(accepted)

    take_in(given([_ask("a"), _ask("b")]), tmp_path / "raw", NOW)

    first, second = intake_folders(tmp_path / "raw")
    assert not (first / "reference.json").exists()
    assert json.loads((second / "reference.json").read_text(encoding="utf-8")) == {"records": 7}


def test_a_profile_that_was_edited_stops_the_night(given: Write, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted"
    accepted.mkdir()
    write_manifest(accepted)
    (accepted / "profile.json").write_text("{}", encoding="utf-8")

    with pytest.raises(DataError, match="does not match"):
        take_in(given([_ask("a")]), tmp_path / "raw", NOW)

    assert intake_folders(tmp_path / "raw") == []
    assert list((tmp_path / "raw" / "intakes").iterdir()) == []


def test_origins_lead_every_row_back_to_its_line(given: Write, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text(
        'id,question,answer\nx,"two\nlines?",yes\ny,one,\n', encoding="utf-8"
    )
    given([_ask("a"), "", '{"id": ', _ask("b")], [{"id": "d", "text": "A text."}])
    files = {
        "root": str(tmp_path),
        "records": ["records.jsonl", "more.csv"],
        "documents": ["documents.jsonl"],
    }
    take_in(_params(files=files), tmp_path / "raw", NOW)

    (folder,) = intake_folders(tmp_path / "raw")
    table = parquet.read_table(folder / "origins.parquet")
    assert [str(field.type) for field in table.schema] == [
        "string", "int64", "string", "int64", "dictionary<values=string, indices=int32, ordered=0>",
    ]  # fmt: skip
    assert [tuple(row.values())[:4] for row in table.to_pylist()] == [
        ("records", 1, "records.jsonl", 1),
        ("records", 2, "records.jsonl", 3),
        ("records", 3, "records.jsonl", 4),
        ("records", 4, "more.csv", 2),
        ("records", 5, "more.csv", 4),
        ("documents", 1, "documents.jsonl", 1),
    ]


def test_an_intake_says_when_its_source_changed(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a")], [{"id": "d", "text": "A text."}])
    os.utime(tmp_path / "records.jsonl", (1_700_000_000, 1_700_000_000))
    os.utime(tmp_path / "documents.jsonl", (1_600_000_000, 1_600_000_000))

    intake = take_in(params, tmp_path / "raw", NOW)

    assert intake is not None
    (folder,) = intake_folders(tmp_path / "raw")
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    assert content["source_updated"] == intake.source_updated == "2023-11-14T22:13:20+00:00"


def test_rows_without_an_id_come_in_once_however_often_they_stand_there(
    given: Write, tmp_path: Path
) -> None:
    nameless = [{"question": f"Is it {n % 3}?", "answer": "yes"} for n in range(6)]
    intake = take_in(given([*nameless, _ask("a")]), tmp_path / "raw", NOW)

    assert intake is not None
    assert (intake.records, intake.unnamed, intake.repeated) == (4, 3, 3)
    turned = given([_ask("a"), *reversed(nameless)])
    assert take_in(turned, tmp_path / "raw", NOW) is None


def test_equal_input_gives_equal_bytes(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), "{", {"question": "q?", "answer": "a"}])
    for name in ("one", "two"):
        take_in(params, tmp_path / name / "raw", NOW)

    assert folder_files(tmp_path / "one") == folder_files(tmp_path / "two")


def test_an_intake_without_digests_is_still_known(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), "{"])
    take_in(params, tmp_path / "raw", NOW)
    (folder,) = intake_folders(tmp_path / "raw")
    (folder / "digests.parquet").unlink()
    content = json.loads((folder / "intake.json").read_text(encoding="utf-8"))
    del content["sources"]
    (folder / "intake.json").write_text(json.dumps(content), encoding="utf-8")
    write_manifest(folder)

    assert take_in(params, tmp_path / "raw", NOW) is None


def test_an_id_given_twice_goes_along_twice_and_once_a_night(given: Write, tmp_path: Path) -> None:
    params = given([_ask("a"), _ask("a", "no"), _ask("a", "perhaps")])
    intake = take_in(params, tmp_path / "raw", NOW)

    assert intake is not None
    assert intake.records == 3
    assert take_in(params, tmp_path / "raw", NOW) is None


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonl", ""), ("a.jsonl", "\n\n"), ("a.csv", ""), ("a.csv", "id,text\n")]
)
def test_an_empty_file_is_named(name: str, text: str, given: Write, tmp_path: Path) -> None:
    given([_ask("a")])
    (tmp_path / name).write_text(text, encoding="utf-8")
    for kind in ("records", "documents"):
        files = {"root": str(tmp_path), "records": ["records.jsonl"], "documents": []}
        files[kind] = [*files[kind], name]
        with pytest.raises(DataError, match=rf"{name} holds no rows") as caught:
            take_in(_params(files=files), tmp_path / "raw", NOW)
        assert f"files.{kind}" in caught.value.remedy
    assert intake_folders(tmp_path / "raw") == []


_KILLED = """
import sys
from pathlib import Path
from tasks.ingestion.intake_files import IntakePart
from tests.unit.ingestion.test_intakes import NOW, _params, take_in
folder = Path(sys.argv[1])
write = IntakePart.write
def told(self, kind, found, key, digest):
    write(self, kind, found, key, digest)
    if found.line.number == 3:
        print("half", flush=True)
        sys.stdin.read()
IntakePart.write = told
files = {"root": str(folder), "records": ["records.jsonl"], "documents": []}
take_in(_params(files=files), folder / "raw", NOW)
"""


@pytest.mark.slow
def test_a_killed_intake_leaves_nothing_that_a_later_one_trips_over(
    given: Write, tmp_path: Path
) -> None:
    params = given([_ask(str(n)) for n in range(5)])
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.kill()
    assert any((tmp_path / "raw" / "intakes").iterdir())

    intake = take_in(params, tmp_path / "raw", NOW)

    assert intake is not None
    assert intake.records == 5
    assert [path.name for path in (tmp_path / "raw" / "intakes").iterdir()] == [intake.name]


def test_a_password_in_the_url_of_params_is_never_repeated() -> None:
    url = "postgresql://me:s3cr3t@host/db"
    content = read_yaml(Path("params/ingestion.yaml"))
    entry = {"name": "faq", "kind": "sql", "sql": {"url": url}}
    old = {"source": "sql", "sql": {"url": url}}
    for wrong in ({"sources": [entry | {"limit": url}]}, {"sources": [entry]}, old):
        whole = content | wrong if "sources" in wrong else wrong
        with pytest.raises(ConfigError) as caught:
            validate_params(_OneFile, {"ingestion": whole}, [])
        assert "s3cr3t" not in str(caught.value)


class _OneFile(StageParams):
    ingestion: IngestionParams


@pytest.mark.slow
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("chatbot_ko.csv", {"Q": "question", "A": "answer", "label": "slice"}, 11_823),
        ("banking77_test.csv", {"text": "question", "category": "answer"}, 3_080),
        ("self_instruct_seed.jsonl", {}, 175),
    ],
)
def test_real_files_come_in_whole_in_every_encoding(
    name: str, columns: dict[str, str], rows: int, mark: bytes, tmp_path: Path
) -> None:
    if not (REAL / name).is_file():
        pytest.skip(f"no {REAL / name}: real data lie beside the project where there are any")
    encodings = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    text = (REAL / name).read_text(encoding="utf-8")
    (tmp_path / name).write_bytes(mark + text.encode(encodings.get(mark, "utf-8")))
    files = {"root": str(tmp_path), "records": [name], "documents": []}
    params = _params(files=files, columns={"records": columns, "documents": {}})

    intake = take_in(params, tmp_path / "raw", NOW)

    assert intake is not None
    assert (intake.records, intake.faulty) == (rows, 0)
    assert take_in(params, tmp_path / "raw", NOW) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_source_of_100_mb_is_never_held(kind: str) -> None:
    size = ["--rows", "10000", "--bytes", "10000", "--format", kind]
    command = [sys.executable, "-m", "tests.benchmarks.ingestion", *size]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures["rows"] == 10_000
    assert figures["both_mb_above_start"] < 60


@pytest.mark.parametrize("stored", ["an intake of before", "an intake of now"])
def test_ids_in_another_unicode_form_are_no_news(
    stored: str, given: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [unicodedata.normalize("NFD", name) for name in ("휴가.md", "Übung", "plain")]
    params = given([_ask(name) for name in names], [{"id": name, "text": "?"} for name in names])
    with monkeypatch.context() as patch:
        if stored == "an intake of before":
            patch.setattr("tasks.ingestion.intake_files.id_form", lambda name: name)
        take_in(params, tmp_path / "raw", NOW)

    assert take_in(params, tmp_path / "raw", NOW + timedelta(days=1)) is None
    for day, answer in enumerate(["no", "yes"], start=2):
        changed = given([_ask(names[0], answer), *map(_ask, names[1:])])
        intake = take_in(changed, tmp_path / "raw", NOW + timedelta(days=day))
        assert intake is not None
        assert intake.records == 1


def test_a_limit_keeps_documents_named_in_another_unicode_form(
    given: Write, tmp_path: Path
) -> None:
    names = [f"é{number:03}" for number in range(50)]
    records = [_ask(name, documents=[name]) for name in names]
    documents = [{"id": unicodedata.normalize("NFD", name), "text": name} for name in names]

    take_in(given(records, documents, limit=5), tmp_path / "raw", NOW)

    (folder,) = intake_folders(tmp_path / "raw")
    taken = {unicodedata.normalize("NFC", row["id"]) for row in _rows(folder, "documents")}
    assert {row["documents"][0] for row in _rows(folder)} <= taken


def _files(**changes: Any) -> dict[str, Any]:
    return {"files": {"records": ["a.csv"]} | changes}


@pytest.mark.parametrize("encoding", ["cp949", "EUC-KR", "utf-16-le", "latin-1", None])
@pytest.mark.parametrize("delimiter", [";", "\t", "|", ",", "¦", None])
def test_encodings_and_delimiters_that_can_be_read_are_taken(
    encoding: str | None, delimiter: str | None
) -> None:
    params = _params(**_files(encoding=encoding, delimiter=delimiter))
    files = params.sources[0].files
    assert (files.encoding, files.delimiter) == (encoding, delimiter)


@pytest.mark.parametrize(
    "changes",
    [
        _files(encoding="korean windows"),
        _files(encoding="base64"),
        _files(delimiter=""),
        _files(delimiter=", "),
        _files(delimiter="a"),
        _files(delimiter='"'),
        _files(delimiter="\n"),
        _files(json_lines="no"),
        _files() | {"columns": {"as_text": "answer"}},
        _files() | {"columns": {"as_text": ["answer", "label"]}},
        {"kind": "files"},
        {"kind": "hub"},
        {"kind": "sql"},
        {"kind": "python_docs", "python_docs": {"packages": []}},
        {"kind": "sql", "limit": 5, "sql": _sql("changed")},
        {"kind": "python_docs", "limit": 0},
        {"kind": "web"},
        {"kind": "hub", "hub": {"name": "a/b", "revision": "main"}},
    ],
)
def test_params_that_cannot_work_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        _params(**changes)


def test_a_bound_on_lines_below_any_row_is_refused() -> None:
    with pytest.raises(ValueError, match="longest_line_bytes"):
        ingestion_params({"name": "docs", "kind": "python_docs"}, longest_line_bytes=0)
