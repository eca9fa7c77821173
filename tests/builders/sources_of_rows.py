"""The same rows offered by each kind of source, for tests that change what a source holds."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tests.builders.ingestion import files_entry

Rows = Sequence[dict[str, Any]]
REVISION = "0" * 40


# Puts rows into a folder, and returns the entry of params that reads them.
Offer = Callable[[Path, Rows], dict[str, Any]]


def _jsonl(folder: Path, rows: Rows) -> dict[str, Any]:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return files_entry(folder, "rows.jsonl")


def _csv(folder: Path, rows: Rows) -> dict[str, Any]:
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return files_entry(folder, "rows.csv")


def _parquet(folder: Path, rows: Rows) -> dict[str, Any]:
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    return files_entry(folder, "rows.parquet")


def _hub(folder: Path, rows: Rows) -> dict[str, Any]:
    # A folder stands for the hub.
    place = folder / "set"
    place.mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (place / "train.jsonl").write_text(text, encoding="utf-8")
    return {"name": "hub", "kind": "hub", "hub": {"name": str(place), "revision": REVISION}}


def _sql(folder: Path, rows: Rows) -> dict[str, Any]:
    path = folder / "rows.db"
    path.unlink(missing_ok=True)
    names = list(rows[0])
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE faq ({', '.join(names)})")
        values = [tuple(row[name] for name in names) for row in rows]
        connection.executemany(f"INSERT INTO faq VALUES ({', '.join('?' * len(names))})", values)
    connection.close()
    records = {"query": "SELECT * FROM faq"}
    return {"name": "sql", "kind": "sql", "sql": {"url": f"sqlite:///{path}", "records": records}}


OFFERS: dict[str, Offer] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "hub": _hub,
    "sql": _sql,
}
