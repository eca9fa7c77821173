"""Documents from the docstrings of installed packages, and records that ask about them.

`python -m tasks.ingestion.sources.python_docs PACKAGE...` prints the records as JSON lines."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.ingestion.sources import docstrings
from tasks.ingestion.sources import python_questions as questions
from tasks.ingestion.sources.docstrings import STANDARD_LIBRARY, Documented
from tasks.ingestion.sources.python_questions import QuestionSubject
from tasks.ingestion.sources.source import Found, Kind, Mark
from tasks.records.readers import canonical_json, parse_line
from tasks.services.processes import TELEMETRY_OFF, supervised
from tasks.stage.errors import ConfigError

_TIMEOUT_SECONDS = 300

# What a package that is imported may need to know. It is not told the rest, which holds secrets.
# By the last one `nightloom down` finds its process.
_ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TMPDIR", "TZ"),
    "NIGHTLOOM_UP",
)

_SHORTEST_DOCSTRING = 25

_LONGEST_SIGNATURE = 120

# Deeper names are internals that nobody asks about; other packages nest their public names deeper.
_MOST_DOTS = {STANDARD_LIBRARY: 2}

_MOST_DOTS_ELSEWHERE = 3

_SIGNATURE_LINE = re.compile(
    r"^[\w.]+\((?P<arguments>[^()]*(?:\([^()]*\)[^()]*)*)\)"
    r"(?P<result>[ \t]*(?:-{1,2}>|=>|=)[ \t]*[^\n.;:]*?(?=\s--|[.:;\n]|$))?"
    r"[ \t]*(?P<end>--|[.:;]|\n|$)\s*"
)

_ROLE = re.compile(r":(?:py:)?\w+:`~?!?([^`<]+?)(?: <[^`>]*>)?`")


@dataclass(frozen=True)
class PythonDocs:
    """Raw rows of some packages: records and documents, sorted by id."""

    records: list[dict[str, Any]]
    documents: list[dict[str, Any]]


def read_packages(
    packages: Sequence[str], *, document_characters: int, unanswerable_share: float
) -> PythonDocs:
    """Return questions about the documented names of installed packages, and their docstrings.

    The same for one interpreter and one version of the packages, whatever the hash seed, the home
    or the working directory.

    Raises:
        ConfigError: a package is not installed or documents nothing.
    """
    by_package: dict[str, list[dict[str, Any]]] = {package: [] for package in packages}
    for line in _collect(packages):
        by_package[line.pop("package")].append(line)
    records: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    for package, rows in by_package.items():
        names = {name for row in rows for name in row.get("names", [])}
        found = [Documented(**row) for row in rows if "names" not in row]
        entries = _entries(found, package, document_characters)
        if not entries:
            raise ConfigError(
                f"package {package!r} has no documented public names here; expected one that is "
                "installed",
                f"install it (`pip install {package}`) or mend python_docs.packages",
            )
        origin = _origin(package)
        documents += [
            {"id": entry.name, "title": entry.name, "text": entry.text} | origin
            for entry in entries
        ]
        asked = questions.question_records(entries, names, unanswerable_share=unanswerable_share)
        records += [row | origin for row in asked]
    return PythonDocs(_by_id(records), _by_id(documents))


def _by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["id"]))


def _collect(packages: Sequence[str]) -> list[dict[str, Any]]:
    """Return the lines of the collecting child, which has an empty home and working directory."""
    with tempfile.TemporaryDirectory(prefix="docstrings-") as folder:
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        fixed = {"PYTHONHASHSEED": "0", "HOME": folder, "BROWSER": "true"}
        environment = kept | TELEMETRY_OFF | fixed
        command = [sys.executable, "-P", "-s", str(Path(docstrings.__file__).resolve()), *packages]
        done = subprocess.run(
            supervised(command),
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(
            f"reading the docstrings of {', '.join(packages)} ended with exit code "
            f"{done.returncode}: {' '.join(last) or 'no message'}",
            "import the packages by hand to see why, or take them out of python_docs.packages",
        )
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def _origin(package: str) -> dict[str, str]:
    """Return the source and license of a package's rows."""
    if package == STANDARD_LIBRARY:
        version = ".".join(map(str, sys.version_info[:3]))
        return {"source": f"python-{version}", "license": "PSF-2.0"}
    distributions = importlib.metadata.packages_distributions().get(package.partition(".")[0])
    if not distributions:
        return {"source": package, "license": "unknown"}
    metadata = importlib.metadata.metadata(sorted(distributions)[0]).json
    license_name = metadata.get("license_expression") or metadata.get("license") or "unknown"
    first_line = str(license_name).strip().partition("\n")[0]
    return {"source": f"{metadata['name']}-{metadata['version']}", "license": first_line[:80]}


def _entries(found: Sequence[Documented], package: str, characters: int) -> list[QuestionSubject]:
    """Return one entry a distinct docstring, under the shortest of its names."""
    most_dots = _MOST_DOTS.get(package, _MOST_DOTS_ELSEWHERE)
    best: dict[str, QuestionSubject] = {}
    for item in sorted(found, key=lambda item: (item.name.count("."), len(item.name), item.name)):
        body = plain_text(item.docstring)
        if item.name.count(".") <= most_dots and len(body) >= _SHORTEST_DOCSTRING:
            best.setdefault(body, _entry(item, body, characters))
    return sorted(best.values(), key=lambda entry: entry.name)


def _entry(item: Documented, body: str, characters: int) -> QuestionSubject:
    signature = _short_signature(item)
    text = shorten(f"{signature}\n{body}" if signature else body, characters)
    parameters = None if item.parameters is None else tuple(item.parameters)
    summary = questions.first_sentence(body)
    return QuestionSubject(
        item.name, item.owner, item.kind, text, summary, parameters if signature else None
    )


def _short_signature(item: Documented) -> str | None:
    """Return the name with its parameters, without their defaults where these make it long."""
    for signature in (item.signature, item.bare_signature):
        if signature is not None and len(signature) <= _LONGEST_SIGNATURE:
            return item.name + signature
    return None


def plain_text(docstring: str) -> str:
    """Return a docstring's prose: no leading signature, no examples, no markup; lines are kept."""
    text = docstring
    for _ in range(4):  # overloads stand one below the other
        match = _SIGNATURE_LINE.match(text)
        if match is None or (not match.group("end") and not match.group("result")):
            break
        text = text[match.end() :].lstrip("-\n ")
    text = re.sub(r"(?m)^[ \t]*>>>.*(?:\n[ \t]*\S.*)*\n?", "", text)
    text = _ROLE.sub(r"\1", text).replace("``", "")
    text = re.sub(r"(?m)^[ \t]*[-=~^+*]{3,}[ \t]*$\n?", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def shorten(text: str, characters: int) -> str:
    """Return the text, cut at the last line or sentence that ends within so many characters."""
    if len(text) <= characters:
        return text
    head = text[:characters]
    ends = [match.start() + 1 for match in re.finditer(r"[.!?](?=\s)|(?=\n)", head)]
    cut = max((end for end in ends if end >= characters // 2), default=head.rfind(" "))
    return head[: max(cut, 1)].rstrip()


class PackagesSource:
    """Questions about installed packages and their docstrings; all of them are in memory."""

    increments = False

    def __init__(
        self, packages: Sequence[str], *, document_characters: int, unanswerable_share: float
    ) -> None:
        docs = read_packages(
            packages,
            document_characters=document_characters,
            unanswerable_share=unanswerable_share,
        )
        self.origin = tuple(packages)
        self._rows: Mapping[Kind, list[dict[str, Any]]] = {
            "records": docs.records,
            "documents": docs.documents,
        }

    def read(self, kind: Kind) -> Iterator[Found]:
        """Yield the rows as lines, found in the package and version that they are about."""
        for number, row in enumerate(self._rows[kind], start=1):
            yield Found(str(row["source"]), parse_line(number, canonical_json(row)))

    def updated(self) -> str | None:
        """Return None: a package does not say when its docstrings changed."""
        return None

    def marks(self) -> dict[Kind, Mark]:
        """Return None: packages are read whole."""
        return {}


if __name__ == "__main__":
    rows = read_packages(
        sys.argv[1:] or [STANDARD_LIBRARY], document_characters=600, unanswerable_share=0.12
    )
    for row in rows.records:
        print(json.dumps(row, ensure_ascii=False))
