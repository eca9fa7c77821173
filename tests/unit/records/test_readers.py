"""Rows of JSONL, CSV and Parquet files are read strictly, a line at a time."""

import codecs
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tasks.records.columns import Columns
from tasks.records.readers import canonical_json, parse_line, read_lines
from tasks.stage.errors import DataError

ROW = {"id": "1", "question": 'Où, "là"?', "answer": "日本\nici", "documents": ["a", "b"]}


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b'{"id": NaN}', "NaN is not a JSON number"),
        (b'{"id": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"id": "a", "id": "b"}', "key given twice: id"),
        (b'{"x": {"\\ud800": 1, "\\ud800": 2}}', "key given twice: \\ud800"),
        (b'{"id": "\\ud800"}', "not valid Unicode: \\ud800 is half of a surrogate pair"),
        (b'{"id": "\xff"}', "not valid Unicode: byte 8 of the line is 0xff"),
        (b'{"id": ', "not strict JSON"),
        (b"[1]", "found a list; expected a JSON object"),
        (b'[{"fault": 1, "found": ""}]', "found a list; expected a JSON object"),
        (b'{"id": 1e999}', "not strict JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not strict JSON"),
        (b"[" * 100_000, "nested more than 64 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested more than 64 deep"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_line_that_is_not_strict_json_says_why(raw: bytes, fault: str) -> None:
    line = parse_line(3, raw)

    assert line.row is None
    assert line.number == 3
    assert line.raw == raw
    assert fault in str(line.fault)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    line = parse_line(1, b'{"a": [' + b"[]," * 500 + b"[]]}")
    assert line.fault is None


def test_the_same_row_reads_alike_from_jsonl_csv_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(canonical_json(ROW) + b"\r\n\n")
    pd.DataFrame([ROW]).to_parquet(tmp_path / "a.parquet")
    cells = ROW | {"documents": '["a", "b"]'}
    pd.DataFrame([cells]).to_csv(tmp_path / "a.csv", index=False)

    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert [line.row for line in read_lines(tmp_path / name)] == [ROW], name


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_every_encoding_gives_the_same_rows(
    name: str, mark: bytes, encoding: str, tmp_path: Path
) -> None:
    rows = [{"id": str(n), "question": "몇 시예요? 😀 " * 40, "answer": "é"} for n in range(2000)]
    if name == "a.csv":
        text = pd.DataFrame(rows).to_csv(index=False)
    else:
        text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / name).write_bytes(mark + text.encode(encoding))

    assert [line.row for line in read_lines(tmp_path / name)] == rows


_TEXT = "id,question\n1,왜?\n2,뭐?\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_TEXT.encode("cp949"), "byte 14 is 0xbf"),
        (_TEXT.encode("utf-16-le"), "byte 1 is zero"),
        (codecs.BOM_UTF32_LE + _TEXT.encode("utf-32-le"), "byte 0 holds the mark of UTF-32"),
        (codecs.BOM_UTF16_LE + "id\n".encode("utf-16-le") + b"\x00\xd8\x41\x00", "byte 8 is not"),
        (codecs.BOM_UTF16_BE + "id\n".encode("utf-16-be") + b"\x00", "byte 8 is not"),
        (_TEXT.encode() + b"3,a\0b\n", "byte 29 is zero"),
    ],
)
def test_another_encoding_is_refused_by_the_offset_of_its_byte(
    content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        list(read_lines(path))

    assert f"{path}" in caught.value.message
    assert said in caught.value.message
    assert "UTF-8" in caught.value.remedy


def test_a_jsonl_line_of_other_bytes_is_named_by_their_offset_and_the_rest_is_read(
    tmp_path: Path,
) -> None:
    first = '{"id": "왜"}\n'.encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + first + b'{"id": "\xbf\xd6"}\n{"id": "c"}\n')

    good, bad, last = read_lines(path)

    assert (good.row, last.row) == ({"id": "왜"}, {"id": "c"})
    assert f"byte {3 + len(first) + 8} is 0xbf" in str(bad.fault)
    assert parse_line(1, bad.raw).fault == bad.fault
    assert b"\\xbf\\xd6" in bad.raw.replace(b"\\\\", b"\\")


def test_a_malformed_line_in_the_middle_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a"}\n\n{"id": "b", \n{"id": "c"}', encoding="utf-8")

    lines = list(read_lines(path))

    assert [line.number for line in lines] == [1, 3, 4]
    assert [line.row is None for line in lines] == [False, True, False]
    assert lines[1].raw == b'{"id": "b", '


def test_columns_are_renamed_from_theirs_to_ours(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,ask,gold\n1,Why?,doc\n", encoding="utf-8")

    columns = Columns({"key": "id", "ask": "question", "gold": "documents"})
    (line,) = read_lines(tmp_path / "a.csv", columns)

    assert line.row == {"id": "1", "question": "Why?", "documents": ["doc"]}
    assert line.mapped == ("key", "ask", "gold")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_two_columns_of_one_name_are_a_fault_and_not_a_loss(name: str, tmp_path: Path) -> None:
    text = "Q,question\na,b\n" if name == "a.csv" else '{"Q": "a", "question": "b"}'
    (tmp_path / name).write_text(text, encoding="utf-8")

    (line,) = read_lines(tmp_path / name, Columns({"Q": "question"}))

    assert "Q and question are both read as question" in str(line.fault)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("1,Why?,more", "more cells than the header has columns: found 3, expected 2"),
        ("1", "fewer cells than the header has columns: found 1, expected 2"),
        ('1,"Why"?', "not CSV"),
        ('1,"[a', None),
    ],
)
def test_a_csv_row_of_the_wrong_form_is_a_fault_and_not_a_guess(
    row: str, fault: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'id,question\n0,"two\nlines"\n{row}\n\n2,Last?\n', encoding="utf-8")
    if fault is None:
        with pytest.raises(DataError, match="row that begins on line 4 opens a quoted cell"):
            list(read_lines(path))
        return

    good, bad, last = read_lines(path)

    assert good.row == {"id": "0", "question": "two\nlines"}
    assert fault in str(bad.fault)
    assert (bad.number, last.number) == (4, 6)
    assert last.row == {"id": "2", "question": "Last?"}
    assert parse_line(4, bad.raw).fault == bad.fault


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Q,A,Q", "names a column twice: 'Q'"),
        ("Q;A", "is one column, 'Q;A'"),
        ('"Q"x,A', "can't be read"),
        ("Q" * 3000, "over the longest line"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(header: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\na,b,c\n", encoding="utf-8")

    with pytest.raises(DataError, match=said) as caught:
        list(read_lines(tmp_path / "a.csv", longest_line_bytes=2000))

    assert caught.value.remedy


def test_a_csv_cell_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\n1,{'x' * 200_000}\n", encoding="utf-8")

    (line,) = read_lines(tmp_path / "a.csv", longest_line_bytes=300_000)

    assert line.row is not None
    assert len(line.row["text"]) == 200_000


def test_numbers_that_are_not_finite_are_faults_in_parquet_too(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "score": [1.0, math.inf]})
    frame.to_parquet(tmp_path / "a.parquet")

    good, bad = read_lines(tmp_path / "a.parquet")

    assert good.row == {"id": "a", "score": 1.0}
    assert "can't be kept as JSON" in str(bad.fault)


def test_dates_in_parquet_become_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["a"], "at": [pd.Timestamp("2026-01-02T03:04:05Z")]})
    frame.to_parquet(tmp_path / "a.parquet")

    (line,) = read_lines(tmp_path / "a.parquet")

    assert line.row == {"id": "a", "at": "2026-01-02T03:04:05+00:00"}


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "rows.xlsx", "broken.parquet", "latin.csv", "short.parquet"]
)
def test_a_file_that_cannot_be_read_is_a_data_error_with_a_remedy(
    tmp_path: Path, name: str
) -> None:
    if name == "short.parquet":
        pd.DataFrame({"id": [str(n) for n in range(5000)]}).to_parquet(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    elif name != "missing.jsonl":
        (tmp_path / name).write_bytes(b"id,question\n1,\xe9\n")

    with pytest.raises(DataError) as error:
        list(read_lines(tmp_path / name))

    assert name in error.value.message
    assert error.value.remedy


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_line_over_the_bound_is_named_by_its_size_and_the_rest_is_read(
    name: str, tmp_path: Path
) -> None:
    rows = ["id,text", "1,a", "2," + "x" * 5000, "3,c"]
    if name == "a.jsonl":
        rows = ['{"id": "1"}', json.dumps({"id": "x" * 4990}), '{"id": "3"}']
    (tmp_path / name).write_text("\n".join(rows), encoding="utf-8")

    first, bad, last = read_lines(tmp_path / name, longest_line_bytes=2000)

    assert first.row is not None
    assert last.row is not None
    assert last.row["id"] == "3"
    assert "a line of 5,00" in str(bad.fault)
    assert "at most 2,000 are read (longest_line_bytes)" in str(bad.fault)
    assert len(bad.raw) < 2000


_CHILD = """
import sys
from pathlib import Path
from tasks.records.readers import read_lines
from tests.benchmarks._memory import most_megabytes
path = Path(sys.argv[1])
with path.open("wb") as stream:
    stream.write(b'{"id": "a"}\\n{"id": "')
    for _ in range(200):
        stream.write(b"x" * 1_000_000)
    stream.write(b'"}\\n{"id": "b"}\\n')
start = most_megabytes()
faults = [line.fault for line in read_lines(path, longest_line_bytes=1_000_000)]
assert faults[0] is faults[2] is None and "200,000,011 bytes" in faults[1], faults
print(round(most_megabytes() - start))
"""


@pytest.mark.slow
def test_a_line_of_200_mb_is_refused_without_being_held(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "a.jsonl")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20
