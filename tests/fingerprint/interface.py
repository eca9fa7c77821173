"""What people and programs call: help texts, exit codes, shapes of JSON, and test names."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.fingerprint.clone import Clone, Ran
from tests.fingerprint.values import Values, shape

_COMMAND = re.compile(r"^│ ([a-z][a-z-]*) ")
_MODULE = re.compile(r"python -m ((?:tasks|flows)[\w.]*\w)")
_TEST = re.compile(r"^tests/\S+?::(.+)$")
# Where people read which modules they may call.
_TOLD_IN = (
    "README.md", "docs/*.md", "docs/guides/*.md", "docs/reference/*.md", "CONTRIBUTING.md",
    "Makefile", "dvc.yaml", "prefect.yaml",
)  # fmt: skip
# One line a test, whatever the project's own options are.
_PLAIN = ("-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider")
_FIRST = "tasks.curation"
# Commands that end at once, whatever stands in the stores: what is typed, the code expected.
WITHOUT_A_NIGHT: tuple[tuple[str, ...], ...] = (
    ("run", "--no-such-option"),
    ("no-such-command",),
    ("promote",),
    ("serve", "--model", "neither"),
    ("status", "--root", "/"),
    ("run", "--preset", "no-such-preset"),
    ("run", "--set", "finetuning.no_such_key=1"),
    ("run", "--set", "finetuning.rank"),
    ("status", "--json"),
    ("ledger", "--json"),
    ("ledger", "verify", "--json"),
    ("prune", "--json"),
    ("promote", "7", "--reason", "there is none", "--json"),
    ("rollback", "--reason", "there is none", "--json"),
    ("compare", "no-such-night", "production", "--json"),
    ("export", "candidate", "--to", "exported"),
    ("ask", "What is there?", "--json"),
    ("down",),
)
WITH_A_NIGHT: tuple[tuple[str, ...], ...] = (
    ("status", "--json"),
    ("ledger", "--json"),
    ("ledger", "verify", "--json"),
    ("ledger", "verify", "--contains", "0123"),
    ("doctor", "--json"),
    ("prune", "--json"),
    ("prune", "--yes", "--json"),
    ("promote", "1", "--reason", "to see it refused", "--json"),
    ("promote", "7", "--reason", "there is none", "--json"),
    ("promote", "1", "--to", "Production", "--reason", "no such stage"),
    ("rollback", "--reason", "nothing was in production", "--json"),
    ("compare", "candidate", "1", "--json"),
    ("compare", "candidate", "1", "--model", "student"),
    ("ask", "What does json.dumps do?", "--json"),
    ("ask", "What does json.dumps do?", "--alias", "production"),
    ("export", "candidate", "--to", "exported"),
    ("export", "candidate", "--to", "exported"),
    ("promote", "1", "--despite-refusal", "--reason", "to see it done", "--json"),
    ("ledger", "verify", "--json"),
)


def add_interface(values: Values, clone: Clone) -> None:
    """Add what can be seen without a night."""
    for words, text in commands(clone):
        values.add(f"help/nightloom {' '.join(words)}".rstrip(), text)
    for module in told_modules(clone.root):
        values.add(f"help/python -m {module}", _help(clone, module))
    values.add("exit_codes/python -m STAGE", clone.run(_FIRST).code)
    add_commands(values, clone, WITHOUT_A_NIGHT, "before a night")
    add_test_names(values, clone)


def commands(clone: Clone, *words: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the words of every command, found in the help of the one above it, and its help."""
    text = _help(clone, "flows.cli", *words)
    yield words, text
    for line in text.splitlines():
        found = _COMMAND.match(line)
        if found:
            yield from commands(clone, *words, found.group(1))


def told_modules(root: Path) -> list[str]:
    """Return the modules that people are told to call by `python -m`."""
    texts = [path.read_text("utf-8") for pattern in _TOLD_IN for path in root.glob(pattern)]
    return sorted({name for text in texts for name in _MODULE.findall(text)})


def _help(clone: Clone, *command: str) -> str:
    done = clone.run(*command, "--help")
    return f"exit code {done.code}\n{done.out}"


def add_commands(
    values: Values, clone: Clone, lines: tuple[tuple[str, ...], ...], when: str
) -> None:
    """Add the exit code of each command, and the shape of the JSON that it prints."""
    for place, words in enumerate(lines, 1):
        done = clone.nightloom(*words)
        key = f"{when}/{place} {' '.join(words)}"
        values.add(f"exit_codes/{key}", done.code)
        if "--json" in words:
            values.add(f"json/{key}", _shape_of(done))


def _shape_of(done: Ran) -> str:
    try:
        return "\n".join(sorted(set(shape(done.json(), ""))))
    except RuntimeError:
        return "no JSON"


def add_test_names(values: Values, clone: Clone) -> None:
    """Add how often each test's name stands, wherever its file lies."""
    done = clone.run("pytest", "--collect-only", *_PLAIN)
    names = [found.group(1) for found in map(_TEST.match, done.out.splitlines()) if found]
    if not names:
        raise RuntimeError(f"pytest collected nothing:\n{done.out[-2000:]}{done.err[-2000:]}")
    for name in set(names):
        values.add(f"tests/{name}", names.count(name))
