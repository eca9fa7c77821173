"""Files are read below one folder alone, by name or by pattern."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tasks.ingestion.sources.files import FilesSource
from tasks.records.columns import NO_COLUMNS
from tasks.records.text_files import PLAIN
from tasks.stage.errors import DataError

ROW = '{"id": "a"}\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file, beside a folder that holds another one."""
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(ROW, encoding="utf-8")
    return tmp_path / "inside"


def _read(root: Path, *names: str) -> list[str]:
    columns = {"records": NO_COLUMNS, "documents": NO_COLUMNS}
    source = FilesSource(str(root), {"records": names, "documents": []}, columns, PLAIN, 1000)
    return [found.file for found in source.read("records")]


def test_relative_names_count_from_the_root(root: Path) -> None:
    assert _read(root, "rows.jsonl") == ["rows.jsonl"]
    assert _read(root, str(root / "rows.jsonl")) == [str(root / "rows.jsonl")]


def test_a_relative_root_counts_from_the_working_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    assert _read(Path("inside"), "rows.jsonl") == ["rows.jsonl"]


@pytest.mark.parametrize("name", ["../outside/rows.jsonl", "link.jsonl", "folder/rows.jsonl", "/"])
def test_a_file_that_leaves_the_root_is_refused_by_name(name: str, root: Path) -> None:
    (root / "link.jsonl").symlink_to(root.parent / "outside" / "rows.jsonl")
    (root / "folder").symlink_to(root.parent / "outside", target_is_directory=True)

    with pytest.raises(DataError, match="outside of") as caught:
        _read(root, name)

    assert caught.value.message.startswith(name)
    assert "files.root" in caught.value.remedy


@pytest.mark.parametrize("pattern", ["*.jsonl", "../*/rows.jsonl", "**/*.jsonl"])
def test_a_pattern_that_finds_a_file_outside_is_refused(pattern: str, root: Path) -> None:
    (root / "link.jsonl").symlink_to(root.parent / "outside" / "rows.jsonl")

    with pytest.raises(DataError, match="outside of"):
        _read(root, pattern)


def test_a_link_within_the_root_is_followed(root: Path) -> None:
    (root / "link.jsonl").symlink_to("rows.jsonl")
    assert _read(root, "link.jsonl") == ["link.jsonl"]


def test_a_link_to_itself_and_a_folder_and_a_pipe_are_named(root: Path) -> None:
    (root / "loop.jsonl").symlink_to("loop.jsonl")
    os.mkfifo(root / "pipe.jsonl")
    for name in ("loop.jsonl", "pipe.jsonl", ".", "a\0b"):
        with pytest.raises(DataError):
            _read(root, name)


@pytest.mark.parametrize("ours", ["NFC", "NFD"])
@pytest.mark.parametrize("theirs", ["NFC", "NFD"])
def test_a_file_is_found_by_its_name_in_either_unicode_form(
    ours: Any, theirs: Any, root: Path
) -> None:
    name = unicodedata.normalize(theirs, "휴가 Übersicht.jsonl")
    (root / name).write_text(ROW, encoding="utf-8")

    for asked in ("휴가 Übersicht.jsonl", "휴가*.jsonl", "*Übersicht.jsonl"):
        (found,) = _read(root, unicodedata.normalize(ours, asked))
        assert unicodedata.normalize(theirs, found) == name
    with pytest.raises(DataError, match="no file 출장"):
        _read(root, "출장.jsonl")


def test_a_pattern_gives_its_files_by_name(root: Path) -> None:
    for name in ("day-2.jsonl", "day-10.jsonl", "day-1.jsonl", "[day].jsonl"):
        (root / name).write_text(ROW, encoding="utf-8")
    (root / "day-3.jsonl").mkdir()

    assert _read(root, "day-*.jsonl") == ["day-1.jsonl", "day-10.jsonl", "day-2.jsonl"]
    assert _read(root, "[day].jsonl") == ["[day].jsonl"]
    with pytest.raises(DataError, match="no file matches 'week-"):
        _read(root, "week-*.jsonl")
