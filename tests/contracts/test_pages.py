"""No page or report takes a text of data, params or people for HTML."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.stage.pages import page_templates, plain_markdown
from tests.builders.hostile import HOSTILE, raw_in_markdown, taken_for_html

OURS = [path for folder in ("flows", "tasks") for path in sorted(Path(folder).rglob("*.py"))]
# By these names Markdown is written into files.
_MARKDOWN = ('"report.md"', "REPORT_FILE", "CARD_FILE", "TABLE_FILE")
# It makes no page: a prompt is plain text, and a template of the user's runs in a sandbox.
_NO_PAGE = {"tasks/prompting/templates.py", "tasks/models/template_rendering.py"}


def calls(path: Path) -> Iterator[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_every_template_escapes_what_it_is_given() -> None:
    made = {
        path.as_posix(): ast.unparse(call)
        for path in OURS
        for call in calls(path)
        if ast.unparse(call.func).endswith("Environment")
    }
    assert {name for name, call in made.items() if "autoescape=True" not in call} == _NO_PAGE
    raw = [str(path) for path in Path("tasks").rglob("*.j*2") if "safe" in path.read_text()]
    assert raw == []  # no template takes the escapes back


@pytest.mark.parametrize("name", ["report.html.jinja", "history.html.jinja"])
def test_every_value_of_a_page_that_is_no_style_or_script_of_ours_is_escaped(name: str) -> None:
    """Whatever a page is given by any name: each is shown, and none is run."""
    [path] = Path("tasks").rglob(name)
    environment = page_templates(path.parent)
    source = path.read_text(encoding="utf-8")
    assert environment.autoescape is True
    filled = environment.from_string("<p title='{{ x }}'>{{ x }}</p>").render(x=HOSTILE)
    assert taken_for_html(filled) == []
    assert "autoescape" not in source  # switched off nowhere inside


def test_every_report_in_markdown_is_plain() -> None:
    bare = []
    for path in OURS:
        for call in calls(path):
            if not (isinstance(call.func, ast.Attribute) and call.func.attr == "write_text"):
                continue
            where, text = ast.unparse(call.func.value), ast.unparse(call.args[0])
            if any(mark in where.replace("'", '"') for mark in _MARKDOWN):
                bare += [f"{path}: {text}"] if not _is_plain(path, text) else []
    assert bare == []


def _is_plain(path: Path, text: str) -> bool:
    """Whether a text that is written, or the value that its name was given, is made plain."""
    if text.startswith("plain_markdown("):
        return True
    lines = path.read_text(encoding="utf-8").splitlines()
    given = [line for line in lines if line.strip().startswith(f"{text} = ")]
    return bool(given) and all("plain_markdown(" in line for line in given)


def test_plain_markdown_shows_every_text_and_holds_no_tag() -> None:
    words = f"# {HOSTILE}\n\n- `{HOSTILE}`\n\n| a < b | a <= 3 | <!-- c --> | <?x?> |\n"
    plain = plain_markdown(words)
    assert raw_in_markdown(plain) == []
    assert plain.replace("&lt;", "<") == words
    assert "a < b | a <= 3" in plain
