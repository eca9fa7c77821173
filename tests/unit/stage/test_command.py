"""A stage's command line leaves its reason behind, whatever stopped it."""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.stage.command import NamedPath, named, output, run_stage
from tasks.stage.errors import DataError, Failure
from tasks.stage.outputs import output_folders, verified
from tasks.stage.params import StageParams


class Numbers(StageParams):
    count: int


class Params(StageParams):
    numbers: Numbers


@dataclass(frozen=True)
class Paths:
    given: Path
    scratch: Path
    made: Path = output()
    extra: tuple[NamedPath, ...] = named()


def run(
    tmp_path: Path,
    body: Callable[[Params, Paths], None],
    *extra: str,
    given: bool = True,
) -> int:
    (tmp_path / "numbers.yaml").write_text("count: 3\n")
    if given:
        (tmp_path / "given").mkdir(exist_ok=True)
    options = ["--params", str(tmp_path / "numbers.yaml")]
    for name in ("given", "scratch", "made"):
        options += [f"--{name}", str(tmp_path / name)]
    for pair in extra:
        options += ["--extra", pair]
    return run_stage("counting", Params, Paths, body, options)


def raising(error: BaseException) -> Callable[[Params, Paths], None]:
    def body(params: Params, paths: Paths) -> None:
        with output_folders(paths.made) as (folder,):
            (folder / "half.txt").write_text("half")
            raise error

    return body


def write(params: Params, paths: Paths) -> None:
    with output_folders(paths.made) as (folder,):
        (folder / "count.txt").write_text(str(params.numbers.count))


def test_a_stage_that_ends_well_leaves_its_outs_and_no_failure(tmp_path: Path) -> None:
    assert run(tmp_path, write) == 0
    assert (verified(tmp_path / "made") / "count.txt").read_text() == "3"
    assert Failure.read(tmp_path / "scratch" / "counting") is None


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (DataError("found 1, expected 2", "mend it"), "DataError", "found 1"),
        (OSError(errno.ENOSPC, "No space left on device"), "ConfigError", "no space left"),
        (OSError(errno.EIO, "Input/output error", "a/b"), "ConfigError", "the disk failed"),
        (OSError(errno.EROFS, "Read-only file system"), "ConfigError", "the disk failed"),
        (MemoryError(), "DeviceError", "out of memory"),
    ],
)
def test_a_known_failure_is_told_with_its_remedy_and_the_last_good_outs_stay(
    tmp_path: Path, error: Exception, name: str, words: str
) -> None:
    assert run(tmp_path, write) == 0
    assert run(tmp_path, raising(error)) == 1
    failure = Failure.read(tmp_path / "scratch" / "counting")
    assert failure is not None
    assert failure.error == name
    assert words in failure.message
    assert failure.remedy
    assert [
        path.name for path in verified(tmp_path / "made").iterdir() if "half" in path.name
    ] == []


def test_a_failure_that_was_not_foreseen_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, raising(ZeroDivisionError("x")))
    failure = Failure.read(tmp_path / "scratch" / "counting")
    assert failure is not None
    assert failure.error == "ZeroDivisionError"


@pytest.mark.parametrize("place", [".", ".nightloom/workspaces/0123456789ab"])
def test_a_failure_names_files_where_they_are(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who reads it stands in the checkout, and the stage may have run in a workspace."""
    root = tmp_path / place
    root.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(root)
    (root / "numbers.yaml").write_text("count: 3\n")
    (root / "data/given").mkdir(parents=True)
    options = ["--params", "numbers.yaml", "--given", "data/given", "--scratch", "data/scratch",
               "--made", "data/made"]  # fmt: skip

    def body(params: Params, paths: Paths) -> None:
        (paths.scratch / "rows.jsonl").write_text("{}")
        (paths.given / "a.txt").write_text("a")
        raise DataError(f"{paths.given}/a.txt is odd", f"mend data/given/a.txt ({paths.scratch}/"
                        "rows.jsonl), and not data/given_too")  # fmt: skip

    assert run_stage("counting", Params, Paths, body, options) == 1
    failure = Failure.read(root / "data/scratch/counting")
    assert failure is not None
    named_there = re.findall(r"/\S+?\.(?:txt|jsonl)", f"{failure.message} {failure.remedy}")
    assert len(named_there) == 3
    assert all(Path(name).is_file() and Path(name).is_absolute() for name in named_there)
    assert failure.remedy.endswith("and not data/given_too")
    assert failure.remedy in capsys.readouterr().err


def test_an_input_that_is_missing_is_named_with_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, write, given=False) == 1
    told = capsys.readouterr().err
    assert "--given" in told
    assert "does not exist" in told
    assert not (tmp_path / "made").exists()


def test_a_named_path_repeats_and_may_be_left_out(tmp_path: Path) -> None:
    found: list[tuple[NamedPath, ...]] = []

    def keep(params: Params, paths: Paths) -> None:
        found.append(paths.extra)

    (tmp_path / "a=b").mkdir()
    assert run(tmp_path, keep) == 0
    assert run(tmp_path, keep, f"x-1={tmp_path / 'a=b'}", f"y={tmp_path}") == 0
    assert found == [(), (NamedPath("x-1", tmp_path / "a=b"), NamedPath("y", tmp_path))]


@pytest.mark.parametrize("text", ["x", "=/tmp", "x=", "a b=/tmp", "../x=/tmp", "이름=/tmp"])
def test_a_pair_that_is_none_is_a_usage_error(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, write, text)
    assert ended.value.code == 2
    assert "is not NAME=PATH" in capsys.readouterr().err


def test_a_named_path_that_is_missing_or_named_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, write, f"x={tmp_path / 'none'}") == 1
    assert "--extra x=" in capsys.readouterr().err
    assert run(tmp_path, write, f"x={tmp_path}", f"x={tmp_path}") == 1
    assert "names 'x' twice" in capsys.readouterr().err
