"""How what a stage makes now compares with what a version's `dvc.lock` says that it made."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from tasks.stage.metrics import METRICS_FILE, leaves

Status = Literal["same", "same but for times", "differs", "missing"]
What = Literal["code", "params", "data", "out"]

# Numbers that the clock and the machine decide; no rule reads them from an out.
_TIMES = re.compile(r"(_ms|_ms_p\d+|tokens_per_second|peak_megabytes|peak_megabytes_reason)$")
_SECONDS = "seconds"

# Written from the numbers of the same report: pages and prose for people, and what hashes them.
_FOR_PEOPLE = (".md", ".html", ".png", ".svg")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Compared:
    """One thing that a stage read or made: as the version's lock has it, and as it is now.

    Digests are DVC's. `files` names those that differ in a folder whose files are kept.
    """

    stage: str
    what: What
    name: str
    registered: str | None
    now: str | None
    status: Status
    files: tuple[str, ...] = ()


def read_lock(path: Path) -> Mapping[str, Any]:
    """Return the stages of a `dvc.lock`, none where there is no such file."""
    if not path.exists():
        return {}
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    stages: dict[str, Any] = found.get("stages") or {}
    return stages


def compare_inputs(stage: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Compared]:
    """Compare what a stage read: its code, its data and its params, as two locks have them."""
    found = [
        _compared(stage, "code" if name.startswith(("tasks", "params")) else "data", name, pair)
        for name, pair in _pairs(then, now, "deps").items()
    ]
    values = [section.get("params", {}) for section in (then, now)]
    for name in sorted({*values[0], *values[1]}):
        texts = [json.dumps(v[name], sort_keys=True) if name in v else None for v in values]
        found.append(_compared(stage, "params", name, (texts[0], texts[1])))
    return found


def compare_outs(
    stage: str, then: Mapping[str, Any], now: Mapping[str, Any], root: Path, cache: Path
) -> list[Compared]:
    """Compare what a stage made; files that differ are looked into where the cache keeps them.

    `root` is where the stage ran, `cache` DVC's, with the registered files.
    """
    found = []
    for name, pair in _pairs(then, now, "outs").items():
        one = _compared(stage, "out", name, pair)
        if one.status == "differs" and pair[0] and pair[0].endswith(".dir"):
            one = _looked_into(one, root / name, cache)
        found.append(one)
    return found


def as_made(inputs: Sequence[Compared], before: Sequence[Compared]) -> list[Compared]:
    """Return what a stage read, each with the finding on the out of the stage that made it."""
    found = {(one.name, one.now): one for one in before if one.what == "out"}
    return [
        replace(one, status=made.status, files=made.files)
        if (made := found.get((one.name, one.now))) is not None
        else one
        for one in inputs
    ]


def _pairs(
    then: Mapping[str, Any], now: Mapping[str, Any], kind: str
) -> dict[str, tuple[str | None, str | None]]:
    """Return the digest then and now of every path that a stage names."""
    both = [{item["path"]: item.get("md5") for item in side.get(kind, ())} for side in (then, now)]
    return {name: (both[0].get(name), both[1].get(name)) for name in sorted({*both[0], *both[1]})}


def _compared(stage: str, what: What, name: str, pair: tuple[str | None, str | None]) -> Compared:
    then, now = pair
    status: Status = "missing" if None in pair else "same" if then == now else "differs"
    return Compared(stage, what, name, then, now, status)


def _looked_into(one: Compared, folder: Path, cache: Path) -> Compared:
    """Return what is known of the files of a folder that differs as a whole."""
    listed = _object(cache, str(one.registered))
    if not listed.exists():
        return one
    then = {item["relpath"]: item["md5"] for item in json.loads(listed.read_text("utf-8"))}
    now = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    missing = sorted(then.keys() ^ now)
    differing = [
        name
        for name in sorted(then.keys() & now)
        if _differs(_object(cache, then[name]), folder / name)
    ]
    if missing or differing:
        return Compared(
            one.stage, one.what, one.name, one.registered, one.now, "differs",
            (*missing, *differing),
        )  # fmt: skip
    return Compared(one.stage, one.what, one.name, one.registered, one.now, "same but for times")


def _object(cache: Path, digest: str) -> Path:
    """Return where DVC's cache keeps a content."""
    return cache / digest[:2] / digest[2:]


def _differs(then: Path, now: Path) -> bool:
    """Return whether a file differs in more than times; one that is not kept does."""
    if now.suffix in _FOR_PEOPLE or now.name == _MANIFEST:
        return False
    if not then.exists():
        return True
    if now.name == METRICS_FILE:
        return _without_times(then) != _without_times(now)
    if now.suffix == ".parquet":
        return _columns(then) != _columns(now)
    return then.read_bytes() != now.read_bytes()


def _without_times(path: Path) -> dict[tuple[str, ...], Any]:
    found = leaves(json.loads(path.read_text(encoding="utf-8")))
    return {keys: value for keys, value in found if not _is_time(keys)}


def _is_time(keys: tuple[str, ...]) -> bool:
    return keys[0] == _SECONDS or _TIMES.search(keys[-1]) is not None


def _columns(path: Path) -> dict[str, Any]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    kept = [name for name in table.column_names if _TIMES.search(name) is None]
    return {name: table[name].to_pylist() for name in kept}
