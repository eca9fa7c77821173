"""The report as one page that needs no network: summary, tables, pictures, and every answer."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tasks.evaluation.grids import (
    comparison_grid,
    further_grids,
    metric_grids,
    retrieval_grid,
    score_grid,
    size_grid,
    slice_grid,
)
from tasks.evaluation.pager import pager_data
from tasks.evaluation.table import machine_line, retrieval_line
from tasks.evaluation.words import answers, headline
from tasks.records.predictions import Prediction

PAGE_FILE = "report.html"
_TEMPLATES = Path(__file__).with_name("templates")
_CAPTIONS = {
    "scores": "Score of each system by mode, with its interval",
    "slices": "Score of each system by slice (number of records in brackets)",
    "tradeoff": "Score of each system over the memory that its weights take",
    "abstention": "How often each system abstains where it should, and where it should not",
}


@dataclass(frozen=True)
class Shown:
    """What the page is made of; `passages` are texts by id, `pictures` SVG by name."""

    metrics: Mapping[str, Any]
    predictions: Sequence[Prediction]
    passages: Mapping[str, str]
    pictures: Mapping[str, bytes]


def render_page(shown: Shown) -> str:
    """The page. Whatever comes from data is escaped, and no script but its own may run in it."""
    style, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    metrics = shown.metrics
    return environment.get_template("report.html.jinja").render(
        headline=headline(metrics),
        answers=answers(metrics),
        machine=machine_line(metrics),
        scores=score_grid(metrics),
        comparisons=comparison_grid(metrics),
        slices=slice_grid(metrics),
        sizes=size_grid(metrics),
        retrieval=retrieval_grid(metrics),
        retrieval_line=retrieval_line(metrics),
        details=[*metric_grids(metrics), *further_grids(metrics)],
        pictures={name: _picture(name, found) for name, found in shown.pictures.items()},
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(pager_data(metrics, shown.predictions, shown.passages)),
    )


def _picture(name: str, content: bytes) -> dict[str, str]:
    """A picture as an image of its own, in which no script runs, with its caption."""
    return {
        "source": f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}",
        "caption": _CAPTIONS[name],
    }


def _policy(style: str, script: str) -> str:
    """The page's content security policy: our style and script by their hashes, and no network."""
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    )
