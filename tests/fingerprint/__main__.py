"""Fingerprints of nights: made at any commit, compared across a rebuild that may move no number.

`make` copies a checkout's files into a folder of its own and runs a night there by its own
commands; `compare` names every value that differs, but for the list of renames.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fingerprint.clone import Clone, commit
from tests.fingerprint.comparison import Compared, Renames, compare
from tests.fingerprint.nights import NIGHTS, fingerprint

_HERE = Path(__file__).parent
_SHARED = _HERE.parents[1].parent / "shared"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return int(options.call(options))


def make(options: argparse.Namespace) -> int:
    content: dict[str, Any] = {"commit": commit(options.checkout), "night": options.night}
    with tempfile.TemporaryDirectory(prefix="fingerprint-") as temporary:
        folder = (options.work or Path(temporary)).resolve() / "clone"
        clone = Clone.make(options.checkout, folder)
        values = fingerprint(clone, NIGHTS[options.night], options.shared)
    content |= {"values": dict(sorted(values.found.items()))}
    options.out.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(f"{options.out}: {len(values.found)} values of {content['commit']}, {options.night}")
    return 0


def compare_files(options: argparse.Namespace) -> int:
    before, after = map(_read, (options.before, options.after))
    if before["night"] != after["night"]:
        print(f"two nights: {before['night']} and {after['night']}", file=sys.stderr)
        return 2
    found = compare(before["values"], after["values"], Renames.read(options.renames))
    print(f"{before['night']}: {before['commit']} against {after['commit']}")
    _tell(found, len(after["values"]), options.lines)
    return 1 if found.differences else 0


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _tell(found: Compared, count: int, most: int) -> None:
    for difference in found.differences[:most]:
        print("\n".join(difference.lines()))
    if len(found.differences) > most:
        print(f"and {len(found.differences) - most} more; --lines shows more")
    for text in found.unused:
        print(f"nothing here is renamed or excused by: {text}")
    differing = len(found.differences)
    print(f"{count} values; {differing} differ, {len(found.expected)} more as the list expects")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fingerprint", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("make", help="run a night and write its fingerprint")
    one.add_argument("--checkout", type=Path, default=Path(), help="its files, as they are now")
    one.add_argument("--night", choices=NIGHTS, required=True)
    one.add_argument("--out", type=Path, required=True, help="(written) JSON")
    one.add_argument("--work", type=Path, help="a folder to keep the clone in; else it is deleted")
    one.add_argument("--shared", type=Path, default=_SHARED, help="where data/chatbot_ko.csv lies")
    one.set_defaults(call=make)
    two = commands.add_parser("compare", help="hold two of the same night against each other")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.add_argument("--renames", type=Path, default=_HERE / "renames.yaml")
    two.add_argument("--lines", type=int, default=100, help="differences shown")
    two.set_defaults(call=compare_files)
    return parser


if __name__ == "__main__":
    sys.exit(main())
