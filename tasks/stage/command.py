"""The command line of a stage: `python -m tasks.STAGE --params FILE... --NAME PATH...`."""

import argparse
import dataclasses
import errno
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tasks.stage.errors import ConfigError, DataError, DeviceError, Failure, NightloomError
from tasks.stage.params import StageParams, load_params

Params = TypeVar("Params", bound=StageParams)
Paths = TypeVar("Paths")

_OUTPUT = {"output": True}
_NAMED = {"named": True}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def output() -> Any:
    """Return marks a field of a stage's paths as something the stage writes."""
    return dataclasses.field(metadata=_OUTPUT)


def named() -> Any:
    """Return marks a field of a stage's paths, a tuple of `NamedPath`, as an option that repeats.

    `dvc.yaml` never gives it, and it may be left out.
    """
    return dataclasses.field(default=(), metadata=_NAMED)


@dataclass(frozen=True)
class NamedPath:
    """One `NAME=PATH` of the command line: something to read, and what to call it."""

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> "NamedPath":
        """Return the pair that `NAME=PATH` stands for.

        Raises:
            argparse.ArgumentTypeError: the text has another form.
        """
        name, sign, path = text.partition("=")
        if not sign or not path or not _NAME.fullmatch(name):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not NAME=PATH; a name is of letters, digits, dots, dashes and "
                "underscores"
            )
        return cls(name, Path(path))


def run_stage(
    stage: str,
    params_class: type[Params],
    paths_class: type[Paths],
    run: Callable[[Params, Paths], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Return the exit code of a stage: 0 when `run` came back, 1 with `failure.json` when it
    raised.

    `paths_class` is a frozen dataclass of `Path` fields, one an option; those marked `output()`
    are written, the others must exist, as must the paths of one marked `named()`. The field
    `scratch` is the stage's own folder below `data/scratch/`, emptied of an old failure.
    """
    options = _parser(stage, paths_class).parse_args(arguments)
    scratch = options.scratch / stage
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s", force=True)
    try:
        (scratch / "failure.json").unlink(missing_ok=True)
        params = load_params(params_class, options.params)
        names = {name: _value(getattr(options, name)) for name in _options(paths_class)}
        paths = paths_class(**names | {"scratch": scratch})
        _check_inputs(stage, paths_class, paths)
        scratch.mkdir(parents=True, exist_ok=True)
        run(params, paths)
    except Exception as error:
        known = _known(error, options.scratch)
        failure = _placed(Failure.of(known), vars(options).values())
        with suppress(OSError):  # the disk may be what failed; stderr tells it as well
            failure.write(scratch)
        if not isinstance(known, NightloomError):
            raise
        told = NightloomError(failure.message, failure.remedy)
        print(f"{failure.error}: {told}", file=sys.stderr, flush=True)
        return 1
    return 0


def _options(paths_class: type[Any]) -> list[str]:
    """Return the names of a stage's path options."""
    return [item.name for item in dataclasses.fields(paths_class)]


def _value(given: Path | list[NamedPath]) -> Path | tuple[NamedPath, ...]:
    """Return what an option holds, frozen."""
    return tuple(given) if isinstance(given, list) else given


def _parser(stage: str, paths_class: type[Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{stage}", description=sys.modules[paths_class.__module__].__doc__
    )
    parser.add_argument("--params", type=Path, nargs="+", required=True, metavar="FILE")
    for item in dataclasses.fields(paths_class):
        if item.metadata == _NAMED:
            parser.add_argument(
                f"--{item.name}",
                type=NamedPath.parse,
                action="append",
                default=[],
                metavar="NAME=PATH",
                help="(read; can be repeated)",
            )
            continue
        kind = "written" if item.metadata == _OUTPUT else "read"
        parser.add_argument(
            f"--{item.name}", type=Path, required=True, metavar="PATH", help=f"({kind})"
        )
    return parser


def _check_inputs(stage: str, paths_class: type[Any], paths: Any) -> None:
    for item in dataclasses.fields(paths_class):
        path = getattr(paths, item.name)
        if item.metadata == _NAMED:
            _check_named(item.name, path)
        elif item.name != "scratch" and item.metadata != _OUTPUT and not path.exists():
            raise DataError(
                f"{stage} reads {path} (--{item.name}), which does not exist",
                "run the stages before it: `nightloom run` or `dvc repro`",
            )


def _check_named(option: str, given: Sequence[NamedPath]) -> None:
    """Check that the paths of a repeated option exist and that no name is given twice."""
    names = [item.name for item in given]
    for item in given:
        if names.count(item.name) > 1:
            raise ConfigError(
                f"--{option} names {item.name!r} twice; expected one path a name",
                "give each its own name",
            )
        if not item.path.exists():
            raise DataError(
                f"--{option} {item.name}={item.path}: the path does not exist",
                "mend the path; a relative one counts from the working directory",
            )


def room(scratch: str) -> str:
    """Return how to make room on a full disk: nothing goes that a version or a workspace needs.

    `scratch` names the folders of checkpoints and memos, as people read it.
    """
    return (
        f"make room: of what Nightloom made, {scratch} alone may be deleted, while nothing of it "
        "runs (a training that was cut short then begins anew; no more than time is lost); "
        "`pip cache purge` empties pip's cache; `nightloom prune` lists the old versions that "
        "params/release.yaml lets go. Versions, workspaces and earlier nights need all the rest, "
        "DVC's cache too: for it take a larger disk"
    )


def _placed(failure: Failure, options: Iterable[object]) -> Failure:
    """Return a failure in which the stage's own paths are whole.

    The stage may run in a workspace; who reads of `data/curated` looks into the checkout.
    """
    paths = {str(value): value for value in options if isinstance(value, Path) and value.parts}
    longest_first = "|".join(re.escape(name) for name in sorted(paths, key=len, reverse=True))
    named_there = re.compile(rf"(?<![\w./-])(?:{longest_first})(?![\w-])")

    def whole(text: str) -> str:
        return named_there.sub(lambda found: str(paths[found.group()].absolute()), text)

    return replace(failure, message=whole(failure.message), remedy=whole(failure.remedy))


def _known(error: Exception, scratch: Path) -> Exception:
    """Return an error of the system in our own terms, where it has a remedy that we know."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(".").free / 1e9
        return ConfigError(
            f"no space left on the disk ({free:.1f} GB free): {error}",
            f"{room(str(scratch))}. `nightloom doctor` says what takes how much",
        )
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS, errno.EFBIG):
        return ConfigError(
            f"the disk failed: {error}; what was whole before still is",
            "`dmesg` names a disk's errors, `ulimit -f` a bound on files; mend it, then "
            "`nightloom run` goes on from there",
        )
    # By name, because torch's own class is not imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return DeviceError(
            f"the device ran out of memory: {error}",
            "lower micro_batch_tokens or generation_batch in params/compute.yaml",
        )
    return error
