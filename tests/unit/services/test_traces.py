"""What a text leaves is found in every form and container, and wiped from databases' bytes."""

import bz2
import gzip
import html
import io
import json
import lzma
import sqlite3
import tarfile
import unicodedata
import zipfile
from contextlib import closing
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tasks.services.traces import Traces, pieces, wipe_postgresql, wipe_sqlite
from tasks.stage.pages import plain_markdown
from tests.builders.postgres import PASSWORD, running_postgres

SAYS = [
    "The canary \"Zorblax\" sang at O'Leary's <inn> & left.",
    "질문에 답하는 카나리아가 밤마다 노래를 부릅니다",
    "Le canari a chanté très fort à la fenêtre.",
    "The path is C:\\birds\\canary\\song.wav\tand more",
]


def traces(text: str, *ids: str) -> Traces:
    return Traces(frozenset({text}), frozenset(ids))


def _parquet(text: str) -> bytes:
    stream = io.BytesIO()
    table = pyarrow.table({"id": ["a"], "turns": [[{"role": "user", "content": f"x {text} y"}]]})
    parquet.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner/file", content)
    return stream.getvalue()


def _tar(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("inner")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("text", SAYS)
def test_a_text_is_found_in_every_form_and_container(tmp_path: Path, text: str) -> None:
    plain = f"before {text} after".encode()
    written = {
        "plain": plain,
        "nfd": unicodedata.normalize("NFD", text).encode(),
        "json": json.dumps({"x": text}).encode(),
        "json_utf8": json.dumps({"x": text}, ensure_ascii=False).encode(),
        "json_twice": json.dumps({"x": json.dumps({"y": text})}).encode(),
        "json_of_utf8": json.dumps({"x": json.dumps({"y": text}, ensure_ascii=False)}).encode(),
        "utf8_of_json": json.dumps({"x": json.dumps({"y": text})}, ensure_ascii=False).encode(),
        "html": html.escape(text).encode(),
        "markdown": plain_markdown(f"- {text}").encode(),
        "json_of_markdown": json.dumps({"data": plain_markdown(f"- {text}")}).encode(),
        "gz": gzip.compress(plain),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "zip": _zip(plain),
        "tar": _tar(plain),
        "tar_gz": gzip.compress(_tar(_zip(plain))),
        "parquet": _parquet(text),
    }
    missed = []
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        if not traces(text).in_file(tmp_path / name):
            missed.append(name)
    assert missed == []
    (tmp_path / "other").write_bytes(_zip(b"a canary of another kind"))
    assert not traces(text).in_file(tmp_path / "other")


@pytest.mark.parametrize("space", ["  ", "\t", "\u00a0 ", "   "])
def test_words_are_found_whatever_the_space_between_them(tmp_path: Path, space: str) -> None:
    text = "The canary Zorblax sang its verse at three in the morning".replace(" ", space)
    (tmp_path / "log").write_text(f"said: {text}\nand: {' '.join(text.split())}\n", "utf-8")
    found = Traces(frozenset(pieces(text)), frozenset())
    assert found.overwrite(tmp_path / "log")
    assert "Zorblax" not in (tmp_path / "log").read_text("utf-8")
    assert "verse" not in (tmp_path / "log").read_text("utf-8")


def test_an_id_is_found_where_a_row_is_named_by_it(tmp_path: Path) -> None:
    found = Traces(frozenset(), frozenset({"q7"}))
    for content, holds in (
        ('{"id": "q7"}', True),
        ('{"record":"q7"}', True),
        ("1/records.jsonl:2 (id 'q7'): broken", True),
        ('{"id": "q77"}', False),
        ('{"q7": 1}', False),
        ("q7", False),
    ):
        (tmp_path / "file").write_text(content)
        assert found.in_file(tmp_path / "file") is holds, content
    table = pyarrow.table({"record": ["q6", "q7"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert found.in_file(tmp_path / "rows.parquet")


def test_a_file_that_only_begins_like_an_archive_is_read_as_it_is(tmp_path: Path) -> None:
    for magic in (b"PK", b"\x1f\x8b", b"PAR1", b"BZh"):
        (tmp_path / "odd").write_bytes(magic + b" the canary sentence is here")
        assert traces("the canary sentence").in_file(tmp_path / "odd")
        (tmp_path / "odd").write_bytes(magic + b" nothing is here")
        assert not traces("the canary sentence").in_file(tmp_path / "odd")


def test_a_text_is_cut_into_pieces_that_survive_a_cut() -> None:
    sentence = " ".join(f"word{number:03}" for number in range(60))
    for length in (120, 300, 480):
        assert any(piece in sentence[:length] for piece in pieces(sentence))
    assert pieces("Yes.") == set()
    assert pieces("Short, but told.") == {"Short, but told."}
    assert pieces("ann@example.org") == {"ann@example.org"}
    assert pieces("international") == pieces("asyncio.Queue.full") == set()
    assert all(len(piece.encode()) >= 12 for text in SAYS for piece in pieces(text))


def test_stars_keep_a_log_as_long_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"one\nfailed: {SAYS[0]}\n")
    with log.open("a") as stream:  # as a server that goes on
        assert traces(SAYS[0]).overwrite(log)
        stream.write("three\n")
    text = log.read_text()
    assert SAYS[0] not in text
    assert text.startswith("one\nfailed: ****")
    assert text.endswith("\nthree\n")
    assert not traces(SAYS[0]).overwrite(log)


@pytest.mark.parametrize("wal", [False, True])
def test_deleted_rows_leave_the_bytes_of_a_database(tmp_path: Path, wal: bool) -> None:
    path = tmp_path / "store.db"
    says = SAYS[0]
    with closing(sqlite3.connect(path)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (name VARCHAR(9), told TEXT, raw BLOB, n INTEGER)")
        rows = [(f"r{n}", f"{n} {says}", says.encode(), n) for n in range(200)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
        connection.execute(
            "INSERT INTO t VALUES ('keep', ?, ?, 7)", (json.dumps(says), b"\x00\xff")
        )
        connection.commit()
        connection.execute("DELETE FROM t WHERE n < 150 AND name != 'keep'")  # marked, not wiped
        connection.commit()
    assert says.encode() in path.read_bytes()

    assert wipe_sqlite(path, traces(says), {}) == 101

    for file in tmp_path.iterdir():
        assert b"Zorblax" not in file.read_bytes(), file
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (51,)
        told, raw, n = connection.execute("SELECT told, raw, n FROM t WHERE name='keep'").fetchone()
        assert set(json.loads(told)) == {"*"}
        assert (raw, n) == (b"\x00\xff", 7)


def test_keys_names_and_what_is_spared_stay(tmp_path: Path) -> None:
    path, says = tmp_path / "store.db", SAYS[0]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE t (run TEXT, key TEXT, value TEXT, PRIMARY KEY (run, key))"
        )
        rows = [(run, says, says) for run in ("ledger", "night")]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    assert wipe_sqlite(path, traces(says), {"t": "run = 'ledger'"}) == 1
    with closing(sqlite3.connect(path)) as connection:
        found = dict(connection.execute("SELECT run, value FROM t WHERE key = ?", (says,)))
    assert found["ledger"] == says
    assert set(found["night"]) == {"*"}


@pytest.mark.slow
def test_postgresql_is_wiped_too() -> None:
    import sqlalchemy

    with running_postgres() as given:
        url = sqlalchemy.make_url(given).set(password=PASSWORD, drivername="postgresql+psycopg")
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (a TEXT, b JSONB, c INTEGER)")
            connection.execute(
                sqlalchemy.text("INSERT INTO t VALUES (:a, CAST(:b AS jsonb), 1), ('x', '{}', 2)"),
                {"a": SAYS[0], "b": json.dumps({"said": SAYS[0]})},
            )
        assert wipe_postgresql(url.render_as_string(hide_password=False), traces(SAYS[0]), {}) == 2
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT a, b, c FROM t ORDER BY c").fetchall()
    assert set(rows[0][0]) == {"*"}
    assert set(rows[0][1]["said"]) == {"*"}
    assert rows[1][0] == "x"
