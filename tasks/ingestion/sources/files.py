"""Rows from files that the user names: JSON, CSV or Parquet, below one folder."""

import glob
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.ingestion.sources.source import KINDS, Found, Kind, Mark
from tasks.records.columns import Columns
from tasks.records.readers import ENDINGS, check_text_format, read_lines
from tasks.records.text_files import TextFormat
from tasks.stage.errors import DataError


@dataclass(frozen=True)
class _Input:
    """A file to read, under the name that origins show."""

    name: str
    path: Path


class FilesSource:
    """The files that params name; every one of them lies below `root`.

    Relative names count from `root`, which counts from the working directory. A name may be a
    pattern (`day-*.jsonl`, `**/*.csv`); its files are read in the order of their names.

    Raises:
        DataError: a file is missing, or lies elsewhere.
    """

    increments = False

    def __init__(
        self,
        root: str,
        names: Mapping[Kind, Sequence[str]],
        columns: Mapping[Kind, Columns],
        form: TextFormat,
        longest: int,
    ) -> None:
        folder = Path(root).expanduser().absolute()
        self.origin = tuple(name for kind in KINDS for name in names[kind])
        self._columns = columns
        self._form = form
        self._longest = longest
        self._inputs = {
            kind: [found for name in names[kind] for found in _find(folder, name)] for kind in KINDS
        }
        newest = max(item.path.stat().st_mtime for kind in KINDS for item in self._inputs[kind])
        # Asked before the rows are read: what changes meanwhile is newer than what was read.
        self._updated = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")

    def read(self, kind: Kind) -> Iterator[Found]:
        """Yield the lines of the files, in order.

        Raises:
            DataError: a file holds no rows, or can't be read.
        """
        for item in self._inputs[kind]:
            empty = True
            check_text_format(item.path, self._form)
            lines = read_lines(
                item.path,
                self._columns[kind],
                form=self._form,
                longest_line_bytes=self._longest,
            )
            for line in lines:
                empty = False
                yield Found(item.name, line)
            if empty:
                raise DataError(
                    f"{item.path} holds no rows; expected at least one, since an empty export "
                    "looks like a source with nothing new",
                    f"write it again, or take it out of files.{kind}",
                )

    def updated(self) -> str | None:
        """Return the newest modification time of the files."""
        return self._updated

    def marks(self) -> dict[Kind, Mark]:
        """Return None: files are read whole."""
        return {}


def _find(root: Path, name: str) -> list[_Input]:
    """Return the files that a name or pattern stands for.

    Raises:
        DataError: there is none, or one lies outside the root.
    """
    name = _as_it_lies(root, name)
    literal = root / Path(name).expanduser()
    if literal.is_file() or not glob.has_magic(name):
        return [_Input(name, _inside(root, name, literal))]
    # Path.glob takes no absolute pattern.
    paths = [root / path for path in sorted(glob.glob(name, root_dir=root, recursive=True))]  # noqa: PTH207
    found = [
        _Input(_shown(root, path), _inside(root, name, path)) for path in paths if path.is_file()
    ]
    if not found:
        raise DataError(
            f"no file matches {name!r} below {root}; expected at least one",
            "mend the pattern in files; it counts from files.root",
        )
    return found


def _as_it_lies(root: Path, name: str) -> str:
    """Return the name in the Unicode form that a file has it in: a Mac writes another one."""
    if name.isascii():
        return name
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        if (root / form).exists() or glob.glob(form, root_dir=root, recursive=True):  # noqa: PTH207
            return form
    return name


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _inside(root: Path, name: str, path: Path) -> Path:
    """Return where the file really lies, every link followed.

    Raises:
        DataError: it does not exist, or lies outside the root.
    """
    try:
        real, folder = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a zero byte
        raise DataError(
            f"{name!r} below {root} is no path: {error}", "mend the path in files"
        ) from None
    if not real.is_relative_to(folder):
        raise DataError(
            f"{name} leads to {real}, outside of {folder}; files are read below "
            "files.root alone, so that no link or `..` brings in what nobody meant",
            "move the file there, or name the folder that holds it as files.root",
        )
    if not real.is_file():
        raise DataError(
            f"no file {name} in {folder}; expected one that ends in {', '.join(ENDINGS)}",
            "mend the path in files; relative ones count from files.root",
        )
    return real
