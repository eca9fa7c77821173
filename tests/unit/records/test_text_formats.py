"""Encodings, delimiters, line ends and layouts: read where params name them, else refused with the
setting that reads them."""

import codecs
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.records.readers import check_text_format, read_lines
from tasks.records.text_files import PLAIN, TextFormat
from tasks.stage.errors import DataError

ROWS = [
    {"id": "1", "question": "연차는 며칠인가요?", "answer": "매달 하루씩, 첫해에는."},
    {"id": "2", "question": 'Was heißt "später"?', "answer": "Zwei\nZeilen; mit | Strichen"},
    {"id": "3", "question": "日本語で?", "answer": "[はい]"},
]
KOREAN, GERMAN, JAPANESE = ([row] for row in ROWS)
LAYOUTS: dict[str, Any] = {
    "array": lambda rows: json.dumps(rows, ensure_ascii=False),
    "pretty array": lambda rows: json.dumps(rows, ensure_ascii=False, indent=2) + "\n",
    "pretty objects": lambda rows: "\n".join(
        json.dumps(row, ensure_ascii=False, indent=1) for row in rows
    ),
    "an array's lines": lambda rows: "".join(
        json.dumps(row, ensure_ascii=False) + ",\n" for row in rows
    ),
    "lines": lambda rows: "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
}


def _format(**named: Any) -> TextFormat:
    return TextFormat(**({"encoding": None, "delimiter": None, "json_lines": True} | named))


def _table(rows: list[dict[str, str]], delimiter: str = ",", end: str = "\n") -> str:
    text = io.StringIO()
    # Its writer quotes no line feed where a line ends otherwise.
    quoting = csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
    table = csv.DictWriter(
        text, list(rows[0]), delimiter=delimiter, lineterminator=end, quoting=quoting
    )
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _read(path: Path, form: TextFormat = PLAIN) -> list[dict[str, Any] | None]:
    check_text_format(path, form)
    return [line.row for line in read_lines(path, form=form, longest_line_bytes=2_000_000)]


def _refusal(path: Path, form: TextFormat = PLAIN) -> DataError:
    with pytest.raises(DataError) as caught:
        _read(path, form)
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("encoding", "rows"),
    [
        ("cp949", KOREAN),
        ("euc-kr", KOREAN),
        ("EUC_KR", KOREAN),
        ("iso2022_kr", KOREAN),
        ("cp1252", GERMAN),
        ("latin-1", GERMAN),
        ("mac_roman", GERMAN),
        ("shift_jis", JAPANESE),
        ("euc_jp", JAPANESE),
        ("gb18030", ROWS),
        ("utf-16-le", ROWS),
        ("utf-16-be", ROWS),
        ("utf-32-le", ROWS),
        ("utf-32", ROWS),
        ("utf-8-sig", ROWS),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_an_encoding_is_read_where_params_name_it_and_refused_with_the_setting_else(
    name: str, encoding: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    rows = [row | {"id": f"{row['id']}-{copy}"} for copy in range(3) for row in rows]
    text = _table(rows) if name == "a.csv" else LAYOUTS["lines"](rows)
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))

    assert _read(path, _format(encoding=encoding)) == rows

    if encoding in ("utf-8-sig", "iso2022_kr"):  # UTF-8, and ASCII by its bytes
        return
    error = _refusal(path)
    assert "`encoding: " in error.remedy
    assert "under `files` in params/ingestion.yaml" in error.remedy


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        (_table(KOREAN).encode(), "cp949", "is UTF-8 by its bytes"),
        (_table(GERMAN * 4).encode(), "latin-1", "is UTF-8 by its bytes"),
        (codecs.BOM_UTF8 + b"id,text\n1,a\n", "cp949", "begins with the byte order mark of utf-8"),
        (_table(KOREAN).encode("utf-16"), "euc-kr", "byte order mark of utf-16-le"),
        (_table(KOREAN).encode("utf-16-le"), "utf-16", "has no byte order mark"),
        (_table(ROWS).encode("gb18030"), "euc-kr", "is euc-kr by params but byte"),
    ],
)
def test_a_wrong_name_of_an_encoding_is_refused(
    content: bytes, encoding: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)

    error = _refusal(path, _format(encoding=encoding))

    assert said in error.message
    assert "encoding" in error.remedy


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.jsonl", "a.JsonL", "a.json"])
def test_a_byte_order_mark_may_stand_there_more_than_once(
    name: str, encoding: str, count: int, tmp_path: Path
) -> None:
    text = _table(ROWS) if name.lower() == "a.csv" else LAYOUTS["lines"](ROWS)
    path = tmp_path / name
    path.write_bytes(("\ufeff" * count + text).encode(encoding))
    named = encoding if encoding != "utf-8" and not count else None

    assert _read(path, _format(encoding=named)) == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", [None, "cp949", "utf-16-le"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_lines_end_as_the_first_one_does(
    name: str, encoding: str | None, end: str, tmp_path: Path
) -> None:
    rows = [*KOREAN, {"id": "2", "question": "왜?", "answer": "Two\nlines"}, *KOREAN]
    text = _table(rows, end=end) if name == "a.csv" else LAYOUTS["lines"](rows).replace("\n", end)
    path = tmp_path / name
    path.write_bytes(text.encode(encoding or "utf-8"))

    assert _read(path, _format(encoding=encoding)) == rows


def test_a_bad_byte_in_a_file_of_an_old_mac_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"id": "왜"}\r'.encode() + b'{"id": "\xbf\xd6"}\r{"id": "c"}\r')

    lines = list(read_lines(path))

    assert [line.number for line in lines] == [1, 2, 3]
    assert "is 0xbf" in str(lines[1].fault)
    assert "write it as `encoding` under `files`" in str(lines[1].fault)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("first", ["", "sep={}\n", '"SEP={}"\r\n'])
def test_a_delimiter_is_read_where_params_name_it_and_refused_with_the_setting_else(
    delimiter: str, first: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(first.format(delimiter) + _table(ROWS, delimiter), encoding="utf-8")

    assert _read(path, _format(delimiter=delimiter)) == ROWS

    for other in {None, ",", ";", "\t", "|"} - {delimiter}:
        if (other or ",") != delimiter:
            error = _refusal(path, _format(delimiter=other))
            assert f"write `delimiter: {json.dumps(delimiter)}` under `files`" in error.remedy


@pytest.mark.parametrize("delimiter", [None, "\t"])
def test_a_file_that_ends_in_tsv_has_tabs(delimiter: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.TSV"
    path.write_text(_table(ROWS, "\t"), encoding="utf-8")
    assert _read(path, _format(delimiter=delimiter)) == ROWS


def test_a_header_with_commas_in_the_names_shows_its_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id;question, long;answer, short\n1;q;a\n", encoding="utf-8")
    assert 'write `delimiter: ";"`' in _refusal(path).remedy


def test_a_header_whose_quoted_names_hold_commas_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id;"question, short, plain"\n1;why\n', encoding="utf-8")
    assert _read(path, _format(delimiter=";")) == [{"id": "1", "question, short, plain": "why"}]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS * 2000], ids=["three", "one", "many"])
def test_any_layout_of_json_is_read_where_params_say_so(
    layout: str, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LAYOUTS[layout](rows), encoding="utf-8")
    path.with_suffix(".JSON").write_bytes(path.read_bytes())

    assert _read(path, _format(json_lines=False)) == rows
    assert _read(path.with_suffix(".JSON")) == rows
    if layout == "lines":
        assert _read(path) == rows
    if layout == "lines" or (layout == "an array's lines" and len(rows) == 1):
        return
    error = _refusal(path)
    assert "expected one JSON object a line" in error.message
    assert "write `json_lines: false` under `files`" in error.remedy


def test_objects_of_an_array_are_named_by_the_line_on_which_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"id": "}]\\"",\n  "n": [1, {}]},\n\n {"id": NaN}, {"id": "c"}]\n')

    first, second, third = read_lines(path)

    assert first.row == {"id": '}]"', "n": [1, {}]}
    assert [line.number for line in (first, second, third)] == [2, 5, 5]
    assert "NaN is not a JSON number" in str(second.fault)
    assert b"\n" not in second.raw


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"id": "a"}, 3]', "line 1 has '3]'; expected an object"),
        ('[{"id": "a"}\n {"id": "b"}]', "line 2 has .*; expected a comma or the array's end"),
        ('[{"id": "a"}] []', "expected nothing behind the array"),
        ('{"id": "a"},,\n{"id": "b"}', "line 1 has ','; expected the next object"),
        ('"text"', "expected an object or an array"),
        ('[{"id": "a"}, {"id": "b"', "ends on line 1 before the object that begins on line 1"),
        ('[{"id": "a"}\n', "ends on line 2 before the array is closed"),
        ('{"id": "a}\n', "before the object that begins on line 1 is closed"),
    ],
)
def test_json_that_holds_something_else_is_refused_by_line(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        _read(path)


def test_an_object_over_the_bound_is_named_by_its_size_and_the_rest_is_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": "1"}, {"id": "x" * 5000}, {"id": "3"}], indent=0))

    first, bad, last = read_lines(path, longest_line_bytes=2000)

    assert (first.row, last.row) == ({"id": "1"}, {"id": "3"})
    assert "a line of 5,0" in str(bad.fault)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", \n{"id": "b"}\n',
        '{"id": "a"}\n[1]\n',
        '{"id": "a", ',
        '[{"fault": "an old fault", "found": "a line"}]\n{"id": "b"}\n',
        '{"id": "\\u00fc"}\n{"id": "왜"}\n',
    ],
)
def test_single_lines_at_fault_do_not_refuse_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    check_text_format(path, PLAIN)


@pytest.mark.parametrize("name", ["a.CSV", "a.Csv", "a.TSV", "a.JSONL", "a.ndjson", "a.NDJson"])
def test_endings_are_read_in_any_case(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    delimiter = "\t" if name.lower().endswith("tsv") else ","
    is_table = name.lower()[-3:] in ("csv", "tsv")
    path.write_text(_table(ROWS, delimiter) if is_table else LAYOUTS["lines"](ROWS), "utf-8")
    assert _read(path) == ROWS


_CHILD = """
import json, sys
from pathlib import Path
from tasks.records.readers import read_lines
from tests.benchmarks._memory import most_megabytes
path = Path(sys.argv[1])
with path.open("w") as stream:
    stream.write("[")
    for number in range(20_000):
        stream.write("," * bool(number) + json.dumps({"id": str(number), "text": '{x"y' * 1000}))
    stream.write("]")
start = most_megabytes()
count = sum(line.row is not None for line in read_lines(path, longest_line_bytes=1_000_000))
assert count == 20_000, count
print(round(most_megabytes() - start))
"""


@pytest.mark.slow
def test_an_array_on_one_line_of_100_mb_is_never_held(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "a.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20
