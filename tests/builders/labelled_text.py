"""Texts in which personal data is labelled, and how well a finder of it does on them."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.privacy.masking import KINDS, Found

FILE = Path("tests/builders/labelled_personal_data.txt")
_LABEL = re.compile(r"\[\[(\w+):(.*?)\]\](?!\])", re.DOTALL)


@dataclass(frozen=True)
class Labelled:
    """A text and what must be found in it."""

    text: str
    expected: tuple[Found, ...]


@dataclass(frozen=True)
class Quality:
    """How many pieces of one kind were found, missed and wrongly found."""

    found: int
    missed: int
    wrong: int

    @property
    def precision(self) -> float:
        return self.found / max(self.found + self.wrong, 1)

    @property
    def recall(self) -> float:
        return self.found / max(self.found + self.missed, 1)


def read_labelled() -> list[Labelled]:
    """The labelled texts of the fixture."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [_parse(line) for line in lines if line and not line.startswith("# ")]


def _parse(line: str) -> Labelled:
    line = line.replace("~", "").replace("\\n", "\n")
    text, expected, last = "", [], 0
    for match in _LABEL.finditer(line):
        text += line[last : match.start()]
        expected.append(Found(match[1], len(text), len(text) + len(match[2])))
        text += match[2]
        last = match.end()
    return Labelled(text + line[last:], tuple(expected))


def measure(
    texts: Iterable[Labelled], find: Callable[[str], list[Found]]
) -> tuple[dict[str, Quality], list[str]]:
    """The quality by kind, and the mistakes; a piece is found when all of it is, as its kind."""
    counts: Counter[tuple[str, str]] = Counter()
    mistakes = []
    for item in texts:
        found = find(item.text)
        for want in item.expected:
            hit = any(_covers(got, want) for got in found)
            counts[want.kind, "found" if hit else "missed"] += 1
            if not hit:
                mistakes.append(f"missed {want.kind}: {item.text!r}")
        for got in found:
            if not any(_covers(got, want) for want in item.expected):
                counts[got.kind, "wrong"] += 1
                mistakes.append(
                    f"wrong {got.kind} {item.text[got.start : got.end]!r}: {item.text!r}"
                )
    quality = {
        kind: Quality(*(counts[kind, name] for name in ("found", "missed", "wrong")))
        for kind in KINDS
    }
    return quality, mistakes


def _covers(got: Found, want: Found) -> bool:
    return got.kind == want.kind and got.start <= want.start and want.end <= got.end
