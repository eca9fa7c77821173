"""Files as people have them, and siblings made by rule, from the source to accepted rows."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet

from tasks.ingestion.intakes import Intake, not_read, take_in
from tasks.records.schema import Record, read_records
from tasks.stage.errors import DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml
from tasks.validation import __main__ as validation
from tasks.validation.features import FeatureRow, read_document, read_record
from tasks.validation.params import Params
from tests.builders.ingestion import current_rows, ingestion_params

FIELD = Path(os.environ.get("NIGHTLOOM_SHARED", "../shared")).resolve() / "field"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KOREAN = {"번호": "id", "질문": "question", "답변": "answer", "분류": "slice"}
in_the_field = pytest.mark.skipif(
    not FIELD.is_dir(), reason=f"{FIELD} is missing: made-up files that are no part of the project"
)


class Nights:
    """Takes files in, night after night, and validates what is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.intake: Intake | None = None
        self._count = 0

    def take(
        self, records: Path, documents: Path | None = None, *, as_text: Any = (), **more: Any
    ) -> Intake | None:
        """Take a file in; `more` are the mapping of the records and what `files` says."""
        columns = {"records": more.pop("columns", {}), "as_text": list(as_text)}
        files = {"root": "/", "records": [str(records)]} | more
        if documents is not None:
            files["documents"] = [str(documents)]
        entry = {"name": "files", "kind": "files", "files": files, "columns": columns}
        self._count += 1
        self.intake = take_in(
            ingestion_params(entry),
            self.root / "raw",
            NOW + timedelta(days=self._count),
            accepted=self.root / "accepted",
        ).intake
        return self.intake

    def rows(self, kind: str = "records") -> dict[str, FeatureRow]:
        """The current rows as validation reads them, by their id; no rule is asked."""
        read = read_record if kind == "records" else read_document
        current = current_rows(self.root / "raw", kind)
        return {str(row.features["id"]): row for row in map(read, current.rows())}

    def validate(self) -> dict[str, Record]:
        """The accepted records by id, all rules asked."""
        suites = self.root / "suites"
        suites.mkdir(exist_ok=True)
        for path in sorted(Path("params/validation").glob("*.yaml")):
            rules = read_yaml(path)
            if path.stem == "set":
                rules["enough_records"]["kwargs"]["min_value"] = 1
            (suites / path.name).write_text(yaml.safe_dump(rules), encoding="utf-8")
        changes = {"suites": str(suites), "max_quarantine_share": 0.95, "embedding_rows": 0}
        content = read_yaml(Path("params/validation.yaml")) | changes
        compute = read_yaml(Path("params/compute.yaml"))
        (self.root / "scratch").mkdir(exist_ok=True)
        paths = validation.Paths(
            raw=self.root / "raw",
            embedder=self.root / "embedder.json",
            model_store=self.root / "store",
            accepted=self.root / "accepted",
            validation_report=self.root / "report",
            scratch=self.root / "scratch",
        )
        validation.run(
            Params.model_validate(
                {"task": {"name": "answer"}, "validation": content, "compute": compute}
            ),
            paths,
        )
        return {item.id: item for item in read_records(self.root / "accepted" / "records.jsonl")}

    @property
    def reasons(self) -> dict[str, str]:
        """Why each row in quarantine is there, by id."""
        lines = (self.root / "report" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["id"]: row["reason"] for row in map(json.loads, lines)}


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def _turns(record: Record) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in record.messages]


def _record(row: FeatureRow) -> Record:
    assert row.features.get("schema_fault") is None
    return Record.from_row(json.loads(row.line or b""))


@in_the_field
def test_system_and_history_of_alpaca_become_turns(nights: Nights) -> None:
    nights.take(FIELD / "alpaca_with_system_and_history.jsonl")

    first, second, third = map(_record, nights.rows().values())

    assert [role for role, _ in _turns(first)] == ["system", *["user", "assistant"] * 3]
    assert _turns(first)[1:3] == [
        ("user", "When can I come with my class?"),
        ("assistant", "Any weekday morning, if you book ahead."),
    ]
    assert second.question == "How much is a ticket?\n\ntwo adults, one child of 5"
    assert _turns(third)[0] == ("system", "Translate museum notices.")


@in_the_field
@pytest.mark.slow
def test_weights_are_heeded_and_tools_are_refused_by_name(nights: Nights) -> None:
    nights.take(FIELD / "messages_with_weights_and_tools.jsonl")

    accepted = nights.validate()

    assert set(accepted) == {"m-1", "m-5", "m-6", "m-7", "m-8"}
    assert accepted["m-1"].answer == "You are right, it moved to gate 7."
    assert accepted["m-5"].question == "Which harbour is this?"
    assert _turns(accepted["m-6"])[0] == ("system", "Be brief.")
    assert _turns(accepted["m-7"])[0] == ("system", "Be brief.\n\nBe kind.")
    assert "tools offers tools" in nights.reasons["m-3"]
    assert "calls a tool (tool_calls)" in nights.reasons["m-4"]
    assert "user user assistant" in nights.reasons["m-9"]
    metrics = read_metrics(nights.root / "report")["records"]
    assert metrics["unlearned"] == {"every answer has weight 0": 1}
    assert metrics["unread"] == {"messages.name": 1, "messages.reasoning_content": 1}
    assert nights.intake is not None
    assert nights.intake.unread["records"] == metrics["unread"]
    report = (nights.root / "report" / "report.md").read_text(encoding="utf-8")
    assert "| records | messages.name | 1 |" in report
    assert "as the rows ask for themselves: 1 by every answer has weight 0" in report


@in_the_field
@pytest.mark.slow
def test_a_completion_labelled_false_is_no_answer_and_no_fault(nights: Nights) -> None:
    nights.take(FIELD / "kto_like.jsonl")

    accepted = nights.validate()

    assert {item.answer for item in accepted.values()} == {"Water leaves."}
    metrics = read_metrics(nights.root / "report")["records"]
    assert metrics["unlearned"] == {"label is false": 2}
    assert (metrics["accepted"], metrics["quarantined"]) == (2, 0)
    assert nights.reasons == {}


@in_the_field
def test_preferences_are_refused_by_name_until_they_are_mapped(nights: Nights) -> None:
    nights.take(FIELD / "preferences.jsonl")
    faults = {row.features["schema_fault"] for row in nights.rows().values()}
    assert len(faults) == 1
    assert "chosen is a column of preferences" in faults.pop()

    mapped = Nights(nights.root / "mapped")
    mapped.take(FIELD / "preferences.jsonl", columns={"chosen": "completion"})
    records = [_record(row) for row in mapped.rows().values()]
    assert "Aldra 1: Captain Roe." in {item.answer for item in records}
    assert mapped.intake is not None
    assert mapped.intake.unread["records"] == {"rejected": len(records)}


@in_the_field
def test_messages_in_cells_are_messages(nights: Nights) -> None:
    nights.take(FIELD / "conversational_in_cells.csv")
    assert _turns(_record(nights.rows()["1"])) == [
        ("system", "Be brief."),
        ("user", "Which quay 1?"),
        ("assistant", "Quay 1."),
    ]


@in_the_field
@pytest.mark.parametrize(
    ("name", "setting", "named"),
    [
        ("semicolon.csv", 'write `delimiter: ";"` under `files`', {"delimiter": ";"}),
        ("cp949.csv", "`encoding: cp949`", {"encoding": "cp949"}),
        ("bom_twice.csv", None, {}),
        ("array.jsonl", "write `json_lines: false` under `files`", {"json_lines": False}),
    ],
)
def test_a_file_is_read_where_params_name_its_form_and_else_refused_with_the_setting(
    name: str, setting: str | None, named: dict[str, Any], nights: Nights
) -> None:
    columns = KOREAN if name.endswith("csv") else {}
    if setting is not None:
        with pytest.raises(DataError) as caught:
            nights.take(FIELD / name, columns=columns)
        assert setting in caught.value.remedy
        assert not (nights.root / "raw" / "intakes").exists() or not [
            *(nights.root / "raw" / "intakes").iterdir()
        ]

    nights.take(FIELD / name, columns=columns, **named)

    records = {name: _record(row) for name, row in nights.rows().items()}
    assert set(records) == ({"1", "2", "3", "4"} if columns else {"1", "2"})
    assert records["1"].question == "연차는 며칠인가요?"
    if columns:
        assert records["4"].answer == "NA"
        assert records["3"].answer == "영수증을 붙여\n경비 화면에서 냅니다."
    assert nights.intake is not None
    assert not_read(nights.intake) == []


@in_the_field
def test_whole_numbers_are_read_as_text_where_params_say_so(nights: Nights) -> None:
    path = FIELD / "integer_labels.jsonl"
    nights.take(path)
    faults = {row.features["schema_fault"] for row in nights.rows().values()}
    assert all("write `as_text: [answer]` under `columns`" in str(fault) for fault in faults)

    nights.take(path, as_text=["answer", "slice"])
    assert {_record(row).answer for row in nights.rows().values()} == {"0", "1"}


@in_the_field
@pytest.mark.slow
def test_ids_of_a_mac_and_of_windows_are_the_same(nights: Nights) -> None:
    nights.take(FIELD / "records_from_windows.jsonl", FIELD / "documents_from_a_mac.jsonl")

    accepted = nights.validate()

    assert len(accepted) == len(nights.rows())
    places = parquet.read_table(nights.root / "accepted" / "places.parquet")
    assert places["id"].to_pylist() == list(accepted)
    assert {name for item in accepted.values() for name in item.documents} == set(
        nights.rows("documents")
    )


NAMES = ["휴가 규정.md", "Überstunden.pdf", "déjà vu", "ガイド.txt", "Việt Nam", "plain.txt"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD"), ("NFC", "NFC")])
def test_ids_are_one_in_either_form(forms: tuple[str, str], tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    ours, theirs = (
        [unicodedata.normalize(form, name) for name in NAMES]  # type: ignore[arg-type]
        for form in forms
    )
    documents = [{"id": name, "text": f"Of {name}."} for name in ours]
    records = [
        {"id": f"{name}-0", "question": "What is it?", "answer": name, "documents": [name]}
        for name in theirs
    ]
    _write(tmp_path / "d.jsonl", documents), _write(tmp_path / "r.jsonl", records)
    nights.take(tmp_path / "r.jsonl", tmp_path / "d.jsonl")

    found = {name for row in nights.rows().values() for name in row.names}

    assert found == set(nights.rows("documents")) == set(NAMES)
    assert nights.take(tmp_path / "r.jsonl", tmp_path / "d.jsonl") is None
    corrected = [row | {"id": unicodedata.normalize("NFC", row["id"])} for row in records]
    _write(tmp_path / "r.jsonl", [row | {"answer": "Other."} for row in corrected])
    nights.take(tmp_path / "r.jsonl", tmp_path / "d.jsonl")
    assert {_record(row).answer for row in nights.rows().values()} == {"Other."}
    assert len(nights.rows()) == len(NAMES)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    for row in rows:
        table.writerow(
            {
                name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
                for name, value in row.items()
            }
        )
    return text.getvalue()


ANSWER = [{"role": "assistant", "content": 'Quay 3, "left".'}]
REJECTED = [{"role": "assistant", "content": "No quay."}]
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "어느 부두?"}]


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": ASKED, "completion": ANSWER}, {}),
        ({"messages": [*ASKED, *ANSWER]}, {}),
        ({"dialogue": [*ASKED, *ANSWER]}, {"dialogue": "messages"}),
        (
            {"ask": ASKED, "chosen": ANSWER, "rejected": ANSWER},
            {"ask": "prompt", "chosen": "completion"},
        ),
        ({"chosen": [*ASKED, *ANSWER], "rejected": ANSWER}, {"chosen": "messages"}),
        (
            {"chosen": [*ASKED, *ANSWER], "rejected": [*ASKED, *REJECTED]},
            {"chosen": "messages", "rejected": "rejected_answer"},
        ),
        ({"prompt": "어느 부두?", "chosen": [*ASKED, *ANSWER]}, {"chosen": "completion"}),
        ({"question": ASKED, "answer": ANSWER}, {}),
        ({"question": ASKED[1:], "answer": ANSWER, "system": "Be kind."}, {}),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be kind."},
                    {"from": "human", "value": "어느 부두?"},
                    {"from": "gpt", "value": ANSWER[0]["content"]},
                ]
            },
            {},
        ),
    ],
    ids=lambda value: " ".join(value),
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "CSV"])
def test_messages_are_read_in_every_column_that_may_hold_them(
    row: dict[str, Any], columns: dict[str, str], ending: str, tmp_path: Path
) -> None:
    rows = [{"id": "a"} | row]
    path = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        _write(path, rows)
    else:
        path.write_text(_csv(rows), encoding="utf-8")
    nights = Nights(tmp_path)

    nights.take(path, columns=columns)

    told = [(turn["role"], turn["content"]) for turn in [*ASKED, *ANSWER]]
    assert _turns(_record(nights.rows()["a"])) == told


@pytest.mark.parametrize(
    "text",
    ["[1, 2, 3]의 합은?", "[INST] Hi [/INST]", '["a"]', "{x | x > 0}", '{"a": 1}', "[]", "{", "["],
)
def test_a_text_that_only_looks_like_json_stays_a_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(_csv([{"id": "a", "prompt": text, "completion": "yes"}]), encoding="utf-8")
    nights = Nights(tmp_path)

    nights.take(path)

    assert _record(nights.rows()["a"]).question == text


@pytest.mark.parametrize("column", ["messages", "completion", "prompt", "history"])
def test_messages_in_pythons_own_form_are_refused(column: str, tmp_path: Path) -> None:
    row = {"id": "a", "question": "q", "answer": "a"} if column == "history" else {"id": "a"}
    cell = str([{"role": "user", "content": "it's"}])
    (tmp_path / "rows.csv").write_text(_csv([row | {column: cell}]), encoding="utf-8")
    nights = Nights(tmp_path)

    intake = nights.take(tmp_path / "rows.csv")

    assert intake is not None
    assert intake.faulty == 1
    [row_read] = nights.rows().values()
    assert "json.dumps" in str(row_read.features["json_fault"])


@pytest.mark.parametrize(
    ("row", "columns", "unread", "unmet"),
    [
        ({"difficulty": "hard"}, {}, {"difficulty": 2}, []),
        ({"점수": 3, "score": None}, {}, {"점수": 2}, []),
        ({"Note": ""}, {"Frage": "question", "Note": "slice"}, {}, ["Frage"]),
        ({}, {"questoin": "question", "q2": "qestion"}, {}, ["questoin", "q2"]),
        ({"extra": [1]}, {"extra": "qestion"}, {"qestion": 2}, []),
    ],
    ids=str,
)
def test_what_nobody_reads_is_counted(
    row: dict[str, Any],
    columns: dict[str, str],
    unread: dict[str, int],
    unmet: list[str],
    tmp_path: Path,
) -> None:
    rows = [{"id": n, "question": f"{n}?", "answer": "yes"} | row for n in "ab"]
    _write(tmp_path / "r.jsonl", rows)
    nights = Nights(tmp_path)

    intake = nights.take(tmp_path / "r.jsonl", columns=columns)

    assert intake is not None
    assert intake.unread["records"] == unread
    assert intake.unmet["records"] == unmet
    said = " ".join(not_read(intake))
    assert all(f"{name} (2 rows)" in said for name in unread)
    assert all(name in said for name in unmet)


def _siblings() -> Iterator[tuple[str, dict[str, Any], Callable[[FeatureRow], bool]]]:
    """A row's answer may be 0, 1, true, 0.5: read where it is mapped and whole, else refused."""
    for value in (0, 1, -4, 10**12):
        yield (
            "mapped",
            {"theirs": value},
            lambda row, value=value: (  # type: ignore[misc]
                _record(row).answer == str(value)
            ),
        )
    for value in (True, 0.5, 3.0):
        yield (
            "mapped",
            {"theirs": value},
            lambda row: "as_text: [answer]" in str(row.features["schema_fault"]),
        )
        yield (
            "as text",
            {"theirs": value},
            lambda row, value=value: (  # type: ignore[misc]
                _record(row).answer == json.dumps(value)
            ),
        )


@pytest.mark.parametrize(("how", "row", "holds"), list(_siblings()))
def test_answers_of_other_types_are_read_or_refused_with_the_setting(
    how: str, row: dict[str, Any], holds: Callable[[FeatureRow], bool], tmp_path: Path
) -> None:
    _write(tmp_path / "r.jsonl", [{"id": 7.0, "question": "q?"} | row])
    nights = Nights(tmp_path)
    as_text = ["answer"] if how == "as text" else []

    nights.take(tmp_path / "r.jsonl", columns={"theirs": "answer"}, as_text=as_text)

    assert holds(nights.rows()["7"])
