"""What a night left in files: every out of every stage, and the numbers of every report."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import compute, parquet

from tests.fingerprint.values import Values, digest

# Memos and logs change time only; weights of base models are named by their hash in data/models.
_PASSED_BY = ("data/scratch/",)
_TEXTS = (".jsonl", ".jinja", ".csv")
# Pages and prose for people: their numbers are those of metrics.json, their words may be bettered.
_FOR_PEOPLE = (".md", ".html", ".png", ".svg")
# Of libraries: thousands of a vocabulary's words, which are no names of ours.
_WORDS = ("tokenizer.json", "vocab.index.json")
_MANIFEST = "manifest.json"
_GROUPS = ("system", "mode")


def add_outs(values: Values, workspace: Path, section: str) -> None:
    """Add the files below a workspace's `data/`, each in the form that tells most of it.

    JSON by its leaves, Parquet by its columns (of each system and mode where it has these), rows
    and weights by their SHA-256, what is for people by its name.
    """
    values.names |= _intakes(workspace)
    for path in sorted((workspace / "data").rglob("*")):
        name = path.relative_to(workspace).as_posix()
        if path.is_file() and not name.startswith(_PASSED_BY):
            _add_file(values, path, f"{section}/{name}")


def _intakes(workspace: Path) -> dict[str, str]:
    """Return the names of the intakes, which hold the time, by their order."""
    folders = sorted((workspace / "data" / "raw" / "intakes").glob("[!.]*"))
    return {folder.name: f"INTAKE-{place}" for place, folder in enumerate(folders, 1)}


def _add_file(values: Values, path: Path, key: str) -> None:
    if path.name == _MANIFEST:
        values.add(key, f"tells {_check_manifest(path)} files")
    elif path.suffix == ".json" and path.name not in _WORDS:
        values.add_nested(f"{key}:", json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".parquet":
        _add_table(values, parquet.read_table(path), key)
    elif path.suffix in _TEXTS:
        text = values.renamed(path.read_text(encoding="utf-8"))
        values.add(key, f"{text.count(chr(10))} lines {digest(text)}")
    elif path.suffix in _FOR_PEOPLE:
        values.add(key, "is there")
    else:
        values.add(key, digest(path.read_bytes()))


def _check_manifest(path: Path) -> int:
    """Return how many files a manifest names; their own hashes stand in the fingerprint.

    Raises:
        ValueError: a file is not what it says.
    """
    files: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    for name, expected in files.items():
        if digest((path.parent / name).read_bytes()) != expected:
            raise ValueError(f"{path} does not tell what {name} holds")
    return len(files)


def _add_table(values: Values, table: pyarrow.Table, key: str) -> None:
    """Add each column's digest, apart for each system and mode."""
    groups = [name for name in _GROUPS if name in table.column_names]
    kinds: Iterable[dict[str, Any]] = [{}]
    if groups:
        kinds = table.group_by(groups, use_threads=False).aggregate([]).to_pylist()
    for kind in kinds:
        rows = table
        for name, value in kind.items():
            rows = rows.filter(compute.equal(rows[name], value))
        of = "/".join(kind.values())
        for column in rows.column_names:
            if column not in groups:
                text = values.renamed(json.dumps(rows[column].to_pylist(), default=_text))
                values.add(f"{key}:{of}.{column}", f"{rows.num_rows} rows {digest(text)}")


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
