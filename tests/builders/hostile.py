"""Texts that would run or load something if a page took them for HTML, and how to see that it did.

They stand wherever data, params and people's words can: in ids, texts, names, reasons.
"""

from html.parser import HTMLParser

SCRIPT = "<script>alert('taken for HTML')</script>"
IMAGE = '"><img src=x onerror="alert(2)">'
BREAKOUT = "</td></title></style></script><svg onload=alert(3)>"
TEMPLATE = "{{ 7 * 191 }}${7*191}"
HOSTILE = f"{SCRIPT} {IMAGE} {BREAKOUT} {TEMPLATE}"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.found += [f"{tag} {name}" for name in names if name.startswith("on")]
        self.found += [tag] if tag == "img" and names.get("src") == "x" else []
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def taken_for_html(page: str) -> list[str]:
    """What of the texts a browser would run or load in a page of HTML."""
    tags = _Tags()
    tags.feed(page)
    tags.close()
    run = [text[:60] for text in tags.scripts if text.lstrip().startswith("alert(")]
    return tags.found + run + (["the template was filled in"] if "1337" in page else [])


def raw_in_markdown(text: str) -> list[str]:
    """The texts that stand in Markdown as they are, where they are no code."""
    lines = [line for line in text.splitlines() if not line.startswith(("    ", "\t"))]
    return [line for line in lines for mark in ("<script", "<img", "<svg") if mark in line]
