"""The nights whose fingerprints are compared: what each reads, and how it is run."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fingerprint.clone import Clone, Ran
from tests.fingerprint.interface import WITH_A_NIGHT, add_commands, add_interface
from tests.fingerprint.outs import add_outs
from tests.fingerprint.serving import add_serving
from tests.fingerprint.store import add_store
from tests.fingerprint.values import Values, plain
from tests.frozen.make import docstrings

_TINY = ("--preset", "tiny")
_KOREAN = "chatbot_ko.csv"
_INCOMING = "incoming"
_DEEP = re.compile(
    r"^evaluation-full:.*\n(?:\t.*\n)*?\t@?\S*/(python -m [\w.]+|nightloom .*)$", re.M
)


@dataclass(frozen=True)
class Night:
    """One night: its options, the files it reads, and what is looked at beside its outs."""

    options: tuple[str, ...] = ()
    data: Callable[[Path, Path], tuple[str, ...]] | None = None
    is_deep: bool = False
    has_interface: bool = False


def korean(folder: Path, shared: Path) -> tuple[str, ...]:
    """Copy the Korean pairs into a folder, and return the settings that read them."""
    source = shared / "data" / _KOREAN
    if not source.exists():
        raise SystemExit(f"{source} is missing: say where with --shared")
    shutil.copyfile(source, folder / _KOREAN)
    names = "{Q: question, A: answer, label: slice}"
    return (
        f"ingestion.source_defaults.files.records=[{_KOREAN}]",
        f"ingestion.source_defaults.columns.records={names}",
    )


def documentless(folder: Path, _: Path) -> tuple[str, ...]:
    """Write records without documents into a folder, and return the settings that read them."""
    rows = [
        {"id": row["id"], "question": f"What does {row['id']} do?", "answer": row["answer"],
         "slice": row["id"].partition(".")[0][0]}
        for row in docstrings()
    ]  # fmt: skip
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    return ("ingestion.source_defaults.files.records=[records.jsonl]",)


NIGHTS = {
    "tiny": Night(_TINY, has_interface=True),
    "korean": Night(_TINY, korean),
    "documentless": Night(_TINY, documentless),
    "default": Night(),
    "evaluation-full": Night(is_deep=True),
    "tiny-full": Night(_TINY, is_deep=True),
}


def fingerprint(clone: Clone, night: Night, shared: Path) -> Values:
    """Return what one night of a clone makes, and how it looks from outside."""
    values = Values({str(clone.root): "CHECKOUT"})
    if night.has_interface:
        add_interface(values, clone)
    options = [*night.options, *_settings(clone.root, night, shared)]
    first = clone.nightloom("run", "--json", *options)
    workspace = _add_night(values, clone, first, "night")
    add_outs(values, workspace, "files")
    if night.is_deep:
        report = clone.run(*_deep_command(clone.root), *options)
        if report.code != 0:
            raise RuntimeError(f"the deep evaluation failed: {report.err[-3000:]}")
        deep = Path(report.out.strip().splitlines()[-1]).parents[2]
        values.names[deep.name] = "DEEP"
        add_outs(values, deep, "deep")
    if night.has_interface:
        add_serving(values, clone)
        add_commands(values, clone, WITH_A_NIGHT, "after a night")
        _add_night(values, clone, clone.nightloom("run", "--json", *options), "second night")
    add_store(values, clone.root)
    return values


def _settings(root: Path, night: Night, shared: Path) -> list[str]:
    if night.data is None:
        return []
    folder = root / _INCOMING
    folder.mkdir()
    texts = night.data(folder, shared)
    for path in folder.iterdir():
        os.utime(path, (0, path.stat().st_mtime))
    sources = "ingestion.sources=[{name: files, kind: files}]"
    found = (sources, f"ingestion.source_defaults.files.root={folder}", *texts)
    return [word for text in found for word in ("--set", text)]


def _add_night(values: Values, clone: Clone, ran: Ran, key: str) -> Path:
    """Add a night's verdict, and return the workspace that it worked in."""
    found: dict[str, Any] = ran.json()
    if found["error"] is not None:
        raise RuntimeError(f"the night failed: {found['error']}")
    log = json.loads((clone.root / ".nightloom" / "nights" / f"{found['night']}.json").read_text())
    workspace = Path(log["workspace"])
    values.names |= {found["night"]: key.upper().replace(" ", "-")}
    if workspace != clone.root:
        values.names[workspace.name] = "WORKSPACE"
    values.add(f"exit_codes/{key}", ran.code)
    for name in ("verdict", "versions", "aliases"):
        values.add_nested(f"{key}/{name}", found[name])
    for stage in found["stages"]:
        values.add(f"{key}/stages/{stage['name']}", stage["state"])
    for path in sorted((workspace / "data" / "scratch").glob("*/verdict-*.json")):
        _add_verdict(values, json.loads(path.read_text(encoding="utf-8")), f"{key}/{path.stem}")
    return workspace


def _add_verdict(values: Values, found: dict[str, Any], key: str) -> None:
    """Add what was said of each rule, and the names of the evidence."""
    rules: list[str] = []
    for reason in found["reasons"]:
        rules.append(reason["rule"])
        name = f"{reason['rule']}#{rules.count(reason['rule'])}"
        values.add_nested(f"{key}/{name}", {**reason, "rule": None})
    for name, text in found["evidence"].items():
        values.add(f"{key}/evidence/{name}", plain(text))


def _deep_command(root: Path) -> list[str]:
    """Return the module and the options that `make evaluation-full` calls."""
    found = _DEEP.search((root / "Makefile").read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError("the Makefile's target evaluation-full calls nothing of ours")
    words = shlex.split(found.group(1))
    return words[2:] if words[0] == "python" else ["flows.cli", *words[1:]]
