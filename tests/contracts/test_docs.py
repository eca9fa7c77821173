"""What people read names only what is there: commands, options, params, folders, pages.

Modules are looked for in test_module_paths.py.
"""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.overrides import read_overrides
from tasks.ingestion.params import IngestionParams
from tasks.promotion.params import RulesParams

# The log and the changes tell what was, under the names of then.
PAGES = [
    *(path for path in sorted(Path("docs").rglob("*.md")) if path.name != "LOG.md"),
    Path("README.md"), Path("CONTRIBUTING.md"), Path("SECURITY.md"),
]  # fmt: skip
CODE = re.compile(r"```(\w*)\n(.*?)```|`([^`\n]+)`", re.DOTALL)
TOP = ("docs/", "flows/", "params/", "tasks/", "tests/", ".github/", ".ci/")
PLACEHOLDER = re.compile(r"\b(NAME|FOLDER|STAGE)\b|\.\.\.")


def snippets(path: Path) -> list[str]:
    """The code of a page: its spans, and the lines of its blocks without comments, joined."""
    found = []
    for kind, block, span in CODE.findall(path.read_text(encoding="utf-8")):
        if span:
            found.append(span)
        elif kind in ("console", ""):
            found += block.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s#\s.*", "", line).removeprefix("$ ").strip() for line in found]


def commands(path: Path, program: str) -> list[list[str]]:
    """The words after a program's name, of every line of a page's code that begins with it."""
    lines = [line for line in snippets(path) if line.startswith(f"{program} ")]
    return [shlex.split(line)[1:] for line in lines if "|" not in line]


def wrong(command: Any, words: list[str]) -> set[str]:
    """The words that name no command, and the options that the command does not have."""
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if len(rest) == len(words):
        return {words[0]}
    known = {name for param in command.params for name in param.opts} | {"--help"}
    return {word for word in rest if word.startswith("--")} - known


@pytest.fixture(scope="module")
def nightloom() -> Any:
    from flows.cli import app

    return typer.main.get_command(app)


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_names_only_commands_and_options_that_are_there(nightloom: Any, path: Path) -> None:
    lines = commands(path, "nightloom")
    found = {" ".join(words): wrong(nightloom, words) for words in lines}
    assert {line: words for line, words in found.items() if words} == {}


def test_a_command_or_option_that_is_not_there_is_seen(nightloom: Any) -> None:
    assert wrong(nightloom, ["rum", "--json"]) == {"rum"}
    assert wrong(nightloom, ["run", "--jsonn"]) == {"--jsonn"}
    assert wrong(nightloom, ["ledger", "verify", "--limit", "3"]) == {"--limit"}


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_overrides_only_params_that_are_there(path: Path) -> None:
    for words in commands(path, "nightloom"):
        for option, value in pairwise(words):
            if option == "--set":
                assert read_overrides(Path(), None, [value])
            if option == "--preset":
                assert read_overrides(Path(), value, [])


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_names_only_targets_that_are_there(path: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", Path("Makefile").read_text()))
    assert {words[0] for words in commands(path, "make")} <= targets


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_names_only_files_that_are_there(path: Path) -> None:
    words = {word.rstrip(",;:") for line in snippets(path) for word in line.split()}
    words = {word.partition("::")[0] for word in words}
    named = {word for word in words if word.startswith(TOP) and not PLACEHOLDER.search(word)}
    assert {word for word in named if not list(Path().glob(word))} == set()


@pytest.mark.parametrize("path", [*PAGES, Path("docs/LOG.md"), Path("CHANGELOG.md")], ids=str)
def test_a_page_links_only_to_files_that_are_there(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]+`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    inside = [link for link in links if link and not re.match(r"\w+:", link)]
    assert [link for link in inside if not (path.parent / link).exists()] == []
    # A page of the site is read without the repository around it.
    if path.parts[0] == "docs":
        site = Path("docs").resolve()
        found = [(path.parent / link).resolve() for link in inside]
        assert [str(place) for place in found if not place.is_relative_to(site)] == []


def test_each_test_that_a_page_names_is_there() -> None:
    pages = [*PAGES, Path("SECURITY.md")]
    form = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)?)`")
    named = {name for page in pages for name in form.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 50
    for name in named:
        file, _, test = name.partition("::")
        assert f"def {test}" in Path(file).read_text(encoding="utf-8"), name


def menu(entries: list[Any]) -> list[str]:
    """The pages of the site's menu, in its order."""
    pages = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages += menu(value) if isinstance(value, list) else [value]
    return pages


def test_the_menu_of_the_site_has_every_page_once() -> None:
    site = yaml.safe_load(Path("mkdocs.yml").read_text())
    pages = [path.relative_to("docs").as_posix() for path in Path("docs").rglob("*.md")]
    assert sorted(menu(site["nav"])) == sorted(pages)
    assert site["strict"] is True
    assert site["theme"]["font"] is False
    # --quiet would hide warnings from --strict.
    assert "mkdocs build --strict\n" in Path("Makefile").read_text()


def test_the_readme_is_short() -> None:
    assert len(Path("README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_the_readme_leads_to_every_guide() -> None:
    text = Path("README.md").read_text(encoding="utf-8") + Path("docs/index.md").read_text()
    guides = [path.name for path in Path("docs/guides").glob("*.md")]
    assert [name for name in guides if f"guides/{name})" not in text] == []


def test_the_example_of_the_data_guide_is_valid_params() -> None:
    text = Path("docs/guides/data.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    content = yaml.safe_load(Path("params/ingestion.yaml").read_text())
    params = IngestionParams.model_validate(content | yaml.safe_load(block))
    [source] = params.sources
    assert source.columns.records["Q"] == "question"


def test_the_commands_page_tells_every_command(nightloom: Any) -> None:
    text = Path("docs/reference/commands.md").read_text(encoding="utf-8")
    names = [
        " ".join([name, *more])
        for name, command in nightloom.commands.items()
        for more in [[], *([sub] for sub in getattr(command, "commands", {}))]
    ]
    assert [name for name in names if f"| `nightloom {name}` |" not in text] == []


def test_the_params_page_tells_every_file() -> None:
    text = Path("docs/reference/params.md").read_text(encoding="utf-8")
    files = [path.as_posix() for path in Path("params").glob("*.yaml")]
    folders = [f"{path.as_posix()}/" for path in Path("params").iterdir() if path.is_dir()]
    assert [name for name in [*files, *folders] if f"| `{name}` |" not in text] == []


def test_the_decision_page_tells_the_rules_in_their_order_and_no_others() -> None:
    text = Path("docs/reference/decision.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\| `(\w+)` \|", text) == list(RulesParams.model_fields)


def test_the_tour_tells_every_package() -> None:
    text = Path("CONTRIBUTING.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in Path("tasks").glob("*/__init__.py")]
    assert [name for name in packages if f"`tasks/{name}/" not in text] == []


def test_the_docs_lock_pins_what_the_extra_asks_for_and_the_setup_leaves_it_out() -> None:
    lock = Path("requirements-docs.lock").read_text()
    pins = [line for line in lock.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_.-]+==[0-9][\w.+]*", line) for line in pins)
    assert any(line.startswith("mkdocs-material==9.") for line in pins)
    assert "mkdocs" not in Path("requirements.lock").read_text()


def checks() -> list[str]:
    """The commands of `make check`."""
    makefile = Path("Makefile").read_text()
    [body] = re.findall(r"(?m)^check:.*\n((?:\t.*\n)+)", makefile)
    return re.findall(r"\$\(BIN\)/(.+)", body)


def test_the_hooks_run_what_make_check_runs() -> None:
    config = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())
    [repo] = config["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in repo["hooks"]]
    assert repo["repo"] == "local"
    assert hooks == [command.removesuffix(" .") for command in checks()]


def test_the_workflow_runs_the_same_commands_as_a_developer() -> None:
    workflow = yaml.safe_load(Path(".github/workflows/checks.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [
        "make check", "make test", "make docs",
    ]  # fmt: skip
    assert workflow["permissions"] == {"contents": "read"}
