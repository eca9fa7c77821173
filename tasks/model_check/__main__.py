"""Try a base: `--source` with nothing else looks at it; with `--manifest` it is resolved as well.

What is found goes to stdout as JSON lines, one a finding; refusals to stderr.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from tasks.model_check.checks import ROLES, Params, Role, check_base
from tasks.model_check.findings import CheckRecord, Finding, refuse
from tasks.model_check.sources import open_resolved, open_source
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.stage.errors import ConfigError, NightloomError
from tasks.stage.params import BaseSource, load_params


def look(
    opened: AbstractContextManager[Path], params: Params, role: Role = "base"
) -> list[Finding]:
    """Return what is found of a base, each told as soon as it is known."""
    found = []
    for finding in _findings(opened, params, role):
        print(json.dumps(asdict(finding), ensure_ascii=False), flush=True)
        found.append(finding)
    return found


def _findings(
    opened: AbstractContextManager[Path], params: Params, role: Role
) -> Iterator[Finding]:
    try:
        with opened as folder:
            yield from check_base(folder, params, role)
    except ConfigError as error:
        yield Finding.of("source", error)


def resolve(
    source: BaseSource, params: Params, role: Role, manifest: Path, store: Path, key: str
) -> None:
    """Bring a base into the store once it is found well, and write its manifest and the record.

    Raises:
        NightloomError: it can't be had, or a night could not be run with it.
    """
    wanted = "" if source.template is None else source.template.model_dump_json()
    known = CheckRecord.beside(manifest)
    if known is not None and known.template == wanted and _is_held(source, manifest, store):
        found = look(open_resolved(manifest, store), params, role)
        refuse(found)
    else:
        refuse(look(open_source(source, store), params, role))
        made = convert(source.source, source.revision, "causal_lm", store, source.template)
        made.write(manifest)
        found = look(open_resolved(manifest, store), params, role)
        refuse(found)
    digest = ModelManifest.read(manifest).digest
    CheckRecord(key, digest, wanted, tuple(found)).write(manifest)


def _is_held(source: BaseSource, manifest: Path, store: Path) -> bool:
    """Return whether the manifest is of this source and the store holds its folder."""
    if not manifest.exists():
        return False
    found = ModelManifest.read(manifest)
    same = (found.source, found.revision) == (source.source, source.revision)
    return same and (store / found.digest).is_dir()


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 where a night can be run with the base, 1 with the reasons."""
    parser = argparse.ArgumentParser(prog="python -m tasks.model_check", description=__doc__)
    parser.add_argument("--params", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--source", required=True, help="a ModelSource with its template, as JSON")
    parser.add_argument("--store", type=Path, required=True, help="(written)")
    parser.add_argument("--manifest", type=Path, help="(written) resolves the base")
    parser.add_argument("--role", choices=ROLES, default="base", help="what it is to be")
    parser.add_argument("--key", default="", help="what the record stands for")
    options = parser.parse_args(arguments)
    disable_progress_bar()
    set_verbosity_error()
    try:
        params = load_params(Params, options.params)
        source = BaseSource.model_validate_json(options.source)
        if options.manifest is None:
            refuse(look(open_source(source, options.store), params, options.role))
        else:
            resolve(source, params, options.role, options.manifest, options.store, options.key)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
