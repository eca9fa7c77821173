"""No text of the project names a module or a file of code that is not there."""

import ast
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path

import pytest

KINDS = {".py", ".yaml", ".yml", ".toml", ".md", ".jinja", ".sh", ".service", ""}
# What tells of the past may name what was there then.
HISTORY = ("docs/LOG.md", "CHANGELOG.md", "docs/changelog", "tests/frozen/", "tests/fingerprint/")
MODULE = re.compile(r"(?<![\w./-])(?:flows|tasks|tests)(?:\.[a-z_]\w*)+(?![\w/])", re.ASCII)
IMPORT = re.compile(
    r"^\s*from ((?:flows|tasks|tests)(?:\.\w+)*) import \(?([\w, ]+)", re.ASCII | re.MULTILINE
)
FILE = re.compile(r"(?<![\w./-])(?:flows|tasks|tests)(?:/\w+)+\.py\b", re.ASCII)


def tracked() -> list[Path]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True)
    files = [Path(name) for name in done.stdout.split("\n") if name]
    return [
        path
        for path in files
        if path.suffix in KINDS and path.is_file() and not path.as_posix().startswith(HISTORY)
    ]


@cache
def names_in(module: Path) -> frozenset[str]:
    """Return the names that a module's top level defines or imports."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    found |= {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    return frozenset(found | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name that a module's top level holds."""
    place, parts = Path(), dotted.split(".")
    for number, part in enumerate(parts):
        place = place / part
        if place.is_dir():
            continue
        if place.with_suffix(".py").is_file():
            rest, module = parts[number + 1 :], place.with_suffix(".py")
        else:
            rest, module = parts[number:], place.parent / "__init__.py"
        return (
            not rest or rest[0] == "__file__" or (module.is_file() and rest[0] in names_in(module))
        )
    return True


def imports(source: str) -> str:
    """Return the names that Python code imports, one of each in a line of its own."""
    return "\n".join(
        f"from {node.module} import {alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    )


def texts(path: Path) -> str:
    """Return what a file says; of Python its imports, strings and comments.

    The code itself of flows/ and tasks/ is mypy's to read; that of tests/ is read by nobody.
    """
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8")
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    said = [one.string for one in tokens if one.type in {tokenize.STRING, tokenize.COMMENT}]
    return "\n".join([*said, imports(path.read_text(encoding="utf-8"))])


def dead(text: str) -> list[str]:
    modules = [name for name in MODULE.findall(text) if not is_there(name.removesuffix(".py"))]
    for module, listed in IMPORT.findall(text):
        names = [name.split(" as ")[0].strip() for name in listed.split(",")]
        modules += [one for name in names if name and not is_there(one := f"{module}.{name}")]
    return modules + [name for name in FILE.findall(text) if not Path(name).is_file()]


@pytest.mark.slow
def test_every_module_and_file_named_anywhere_is_there() -> None:
    found = {path.as_posix(): names for path in tracked() if (names := dead(texts(path)))}
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "cmd: python -m tasks." + "gone --params",
        "entrypoint: flows/" + "gone.py:approve",
        "from tasks.stage." + "errors.gone import x",
        "x\nfrom tasks.stage." + "errors import DataError, Gone\ny",
        "nightloom = 'flows." + "gone:main'",
    ],
)
def test_one_that_is_gone_is_found(text: str) -> None:
    assert dead(text)


def test_a_name_that_a_module_of_tests_imports_and_that_moved_is_found(tmp_path: Path) -> None:
    module = tmp_path / "moved.py"
    module.write_text("from tasks.stage.errors import (\n    DataError,\n    Moved,\n)\n")
    assert dead(texts(module)) == ["tasks.stage.errors.Moved"]
