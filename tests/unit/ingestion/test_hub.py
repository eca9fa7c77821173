"""Rows of a data set come in with their split's name; a folder stands for the hub here."""

import json
from pathlib import Path

import pytest

from tasks.ingestion.sources.hub import HubSource
from tasks.records.columns import NO_COLUMNS, Columns
from tasks.stage.errors import DataError


def _source(folder: Path, documents: str | None = None) -> HubSource:
    return HubSource(
        name=str(folder),
        config=None,
        revision="0" * 40,
        splits={"records": "train", "documents": documents},
        columns={"records": Columns({"Q": "question"}), "documents": NO_COLUMNS},
        longest=1000,
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = tmp_path / "set"
    made.mkdir()
    rows = [{"Q": "왜?", "answer": "Because."}, {"Q": None, "answer": "Nothing."}]
    text = "\n".join(json.dumps(row) for row in rows)
    (made / "train.jsonl").write_text(text, encoding="utf-8")
    return made


def test_a_split_gives_its_rows_under_our_names(folder: Path) -> None:
    source = _source(folder)

    first, second = source.read("records")

    assert list(source.read("documents")) == []
    assert first.file == f"{folder}/train"
    assert first.line.row == {"question": "왜?", "answer": "Because."}
    assert second.line.row == {"answer": "Nothing."}
    assert source.origin == (f"{folder}@{'0' * 40}",)


def test_class_labels_are_read_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    names = datasets.ClassLabel(names=["나쁨", "좋음"])
    rows = {"Q": ["a", "b", "c"], "answer": [1, 0, -1], "other": [0, 1, 0]}
    features = {"Q": datasets.Value("string"), "answer": names, "other": names}
    made = datasets.Dataset.from_dict(rows, datasets.Features(features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: made)

    found = [line.line.row or {} for line in _source(tmp_path).read("records")]

    assert [row.get("answer") for row in found] == ["좋음", "나쁨", None]
    assert [row["other"] for row in found] == [0, 1, 0]


def test_a_split_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="can't load split 'texts'") as caught:
        list(_source(folder, "texts").read("documents"))
    assert "check the name" in caught.value.remedy
