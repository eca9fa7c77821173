"""Pages of reports: templates whose every value is escaped, and missed where it is missing."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # how a tag, a comment or an instruction begins


def page_templates(folder: Path) -> Environment:
    """Return the templates of a folder. Whatever comes from data is escaped."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def plain_markdown(text: str) -> str:
    """Return Markdown in which nothing is HTML, which the pages that show it would take for such.

    Code shows `&lt;` for it, since what ends a piece of code may come from data too.
    """
    return _TAG.sub("&lt;", text)
