"""The table of docs/reference/model_families.md, made of what the check finds of each look-alike.

`python -m tests.unit.model_check.family_table` writes it anew.
"""

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.model_check.findings import Finding
from tests.builders.families import FAMILIES
from tests.unit.model_check.conftest import check_family

PAGE = Path("docs/reference/model_families.md")
_BEGIN, _END = "<!-- found by the check: begin -->\n", "<!-- found by the check: end -->\n"

# What a family's look-alike is called in public.
NAMES = {
    "llama3": "Llama 3", "llama2": "Llama 2", "zephyr": "Zephyr", "solar": "SOLAR",
    "qwen2": "Qwen 2", "qwen3": "Qwen 3", "gemma2": "Gemma 2", "gemma3": "Gemma 3",
    "phi3": "Phi 3", "mistral": "Mistral", "exaone4": "EXAONE 4", "granite": "Granite",
    "olmo2": "OLMo 2", "smollm3": "SmolLM3", "gpt_neox": "GPT-NeoX", "gpt2": "GPT-2",
    "mixtral": "Mixtral", "qwen3_moe": "Qwen 3 MoE",
}  # fmt: skip
_COLUMNS = ("family", "renders equal", "end learned", "adapted", "quantised", "packed exactly",
            "pruned", "exported", "served = scored")  # fmt: skip
# The finding of each column that is a yes or a no.
_PLAIN = {"packed exactly": "packed", "pruned": "pruned", "exported": "GGUF",
          "renders equal": "prompts", "served = scored": "served as trained"}  # fmt: skip

Found = Mapping[str, Finding]


def table(found: Mapping[str, Found]) -> str:
    """Return the table and what is behind each no, in Markdown; `found` by family."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    lines += [f"| {' | '.join([NAMES[key], *_cells(found[key])])} |" for key in NAMES]
    return "\n".join([*lines, "", *_reasons(found), ""])


def is_yes(finding: Finding) -> bool:
    """Return whether a finding is neither a refusal nor a no."""
    return finding.fault is None and not finding.found.startswith("no")


def with_table(page: str, made: str) -> str:
    """Return a page with another table."""
    head, _, rest = page.partition(_BEGIN)
    return f"{head}{_BEGIN}\n{made}\n{_END}{rest.partition(_END)[2]}"


def _cells(found: Found) -> Iterable[str]:
    for column in _COLUMNS[1:]:
        if column in _PLAIN:
            yield "yes" if is_yes(found[_PLAIN[column]]) else "no"
        elif column == "end learned":
            token = escape(found["end of turn"].found.split()[0]).replace("|", "&#124;")
            yield f"<code>{token}</code>"
        else:
            share = re.search(r"[\d.]+%", found[column].found)
            yield share[0] if share else "no"


def _reasons(found: Mapping[str, Found]) -> Iterable[str]:
    """Yield each reason for a no once, with the families that it is of."""
    reasons: dict[str, list[str]] = {}
    for key, name in NAMES.items():
        for column, finding in _PLAIN.items():
            one = found[key][finding]
            if not is_yes(one):
                said = one.found.removeprefix("no: ")
                if one.fault is not None:
                    said = f"{one.fault}. What to do: {one.remedy}"
                reasons.setdefault(f"*{column}*: {said}", []).append(name)
    for reason, names in reasons.items():
        yield f"- {', '.join(names)}, {reason}"


def main() -> None:
    with TemporaryDirectory() as place:
        found = {key: check_family(family, Path(place)) for key, family in FAMILIES.items()}
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, table(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
