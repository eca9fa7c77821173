"""The evaluation for people: `report.md`, `report.html`, which needs no network, and pictures."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from tasks.evaluation.grids import (
    Grid,
    comparison_grid,
    further_grids,
    metric_grids,
    modes_of,
    quoted,
    retrieval_grid,
    score_grid,
    shown_metric,
    shown_mode,
    shown_slice,
    size_grid,
    slice_grid,
    slice_sizes,
)
from tasks.evaluation.label_plots import draw_labels
from tasks.evaluation.label_report import LabelReport
from tasks.evaluation.plots import Naming, draw, drawable, plain, png, svg
from tasks.evaluation.summary import headline, paragraphs
from tasks.evaluation.table import machine_line, retrieval_line, score_table
from tasks.evaluation.turns import turn_grid
from tasks.records.predictions import (
    CALL_COUNTS,
    CALL_SCORES,
    LABEL_LIKELY,
    LABEL_SCORE,
    SUMMARY_COUNT,
    SUMMARY_SCORES,
    TURN,
    Prediction,
)
from tasks.stage.pages import page_templates, plain_markdown
from tasks.task_types.answer import ANSWER
from tasks.task_types.chat import CHAT
from tasks.task_types.classify import CLASSIFY
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.table import evaluated_task
from tasks.task_types.tools import TOOLS

_DIGITS = 4

# Shown as texts or not at all; every other field of a prediction is a score of its own.
_NOT_SCORES = {
    "system", "mode", "record", "slice", "question", "reference", "output", "prompt_sha256",
    "retrieved",
}  # fmt: skip

_OF_OTHER_TASKS = {
    LABEL_SCORE, LABEL_LIKELY, SUMMARY_COUNT, *SUMMARY_SCORES, *CALL_SCORES, *CALL_COUNTS, TURN,
}  # fmt: skip
_ANSWER_SCORES = tuple(
    item.name for item in fields(Prediction) if item.name not in _NOT_SCORES | _OF_OTHER_TASKS
)

# By task, what its rows hold.
_SCORES = {
    ANSWER.name: _ANSWER_SCORES,
    CHAT.name: _ANSWER_SCORES,
    CLASSIFY.name: (LABEL_SCORE, LABEL_LIKELY, "new_tokens", "is_cut"),
    SUMMARIZE.name: (
        "rouge_l", *SUMMARY_SCORES, "length_ratio", SUMMARY_COUNT, "unsupported", "new_tokens",
        "is_cut",
    ),
    TOOLS.name: (*CALL_SCORES, *CALL_COUNTS, "new_tokens", "is_cut"),
}  # fmt: skip


class _Pool:
    """Each text once, known by its place."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def place(self, text: str) -> int:
        return self.places.setdefault(text, len(self.places))


def pager_data(
    metrics: Mapping[str, Any], predictions: Sequence[Prediction], passages: Mapping[str, str]
) -> str:
    """Return the JSON that `report.js` reads, in which nothing can end a script element.

    `texts` holds each text once, and the rest names them by place. `records` are [id, slice,
    question]; `answers` are [record, mode, system, reference, output, passages, scores], the first
    three by place, passages as places in `passages`, which are [id, text or null].
    """
    texts, shown = _Pool(), _Pool()
    scored = _SCORES[evaluated_task(metrics).name]
    systems = {name: place for place, name in enumerate(metrics["systems"])}
    modes = {name: place for place, name in enumerate(modes_of(metrics["systems"]))}
    records: dict[tuple[str, int | None], int] = {}
    rows: list[list[int]] = []
    answers: list[list[Any]] = []
    for row in predictions:
        key = row.record, row.turn
        if key not in records:
            records[key] = len(rows)
            name = row.record if row.turn is None else f"{row.record}, turn {row.turn}"
            names = (name, shown_slice(row.slice), row.question)
            rows.append([texts.place(name) for name in names])
        answers.append(
            [
                records[key],
                modes[row.mode],
                systems[row.system],
                texts.place(row.reference),
                texts.place(row.output),
                [shown.place(name) for name in row.retrieved],
                [_short_number(getattr(row, name)) for name in scored],
            ]
        )
    primary = metrics["primary"]
    content = {
        "metric": scored.index(primary["metric"]),
        "mode": modes[primary["mode"]],
        "scores": list(map(shown_metric, scored)),
        "systems": list(systems),
        "modes": list(map(shown_mode, modes)),
        "records": rows,
        "passages": _texts_of(shown, passages, texts),
        "answers": answers,
        "texts": list(texts.places),
    }
    return _script_safe(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _texts_of(shown: _Pool, passages: Mapping[str, str], texts: _Pool) -> list[list[Any]]:
    """Return each passage's id and the place of its text, None where its text is not at hand."""
    return [
        [name, texts.place(passages[name]) if name in passages else None] for name in shown.places
    ]


def _short_number(value: Any) -> Any:
    """Return a score in few digits: whole numbers whole, truth values and null as they are."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else round(value, _DIGITS)


def _script_safe(text: str) -> str:
    """Return JSON as it may stand in a page: no `</script>`, no `<!--`, no entity."""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


PAGE_FILE = "report.html"

_TEMPLATES = Path(__file__).with_name("templates")

_CAPTIONS = {
    "scores": "Score of each system by mode, with its interval",
    "slices": "Score of each system by slice (number of records in brackets)",
    "tradeoff": "Score of each system over the memory that its weights take",
    "abstention": "How often each system abstains where it should, and where it should not",
    "confusion": "Which labels the adapter gives for which right labels",
    "calibration": "How often labels are right, by the probability that the model gives them",
}


@dataclass(frozen=True)
class PageContent:
    """What the page is made of; `passages` are texts by id, `pictures` SVG by name.

    `labels` are the tables of task classify.
    """

    metrics: Mapping[str, Any]
    predictions: Sequence[Prediction]
    passages: Mapping[str, str]
    pictures: Mapping[str, bytes]
    labels: Sequence[Grid] = ()


def render_page(shown: PageContent) -> str:
    """Return the page. Whatever comes from data is escaped, and no script but its own may run in
    it.
    """
    style, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    metrics = shown.metrics
    return (
        page_templates(_TEMPLATES)
        .get_template("report.html.jinja")
        .render(
            headline=headline(metrics),
            answers=paragraphs(metrics),
            machine=machine_line(metrics),
            scores=score_grid(metrics),
            comparisons=comparison_grid(metrics),
            slices=slice_grid(metrics),
            sizes=size_grid(metrics),
            labels=shown.labels,
            turns=turn_grid(metrics) if "turns" in metrics else None,
            retrieval=retrieval_grid(metrics),
            retrieval_line=retrieval_line(metrics),
            details=[*metric_grids(metrics), *further_grids(metrics)],
            pictures={name: _picture(name, found) for name, found in shown.pictures.items()},
            policy=_policy(style, script),
            style=Markup(style),
            script=Markup(script),
            data=Markup(pager_data(metrics, shown.predictions, shown.passages)),
        )
    )


def _picture(name: str, content: bytes) -> dict[str, str]:
    """Return a picture as an image of its own, in which no script runs, with its caption."""
    return {
        "source": f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}",
        "caption": _CAPTIONS[name],
    }


def _policy(style: str, script: str) -> str:
    """Return the page's content security policy: our style and script by their hashes, and no
    network.
    """
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    )


def write_report(
    folder: Path,
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    passages: Mapping[str, str],
    labels: LabelReport | None = None,
) -> None:
    """Write `report.md`, `report.html` and a PNG a picture; `passages` are the shown texts by id.

    Equal evidence gives equal bytes. `labels` are there for task classify alone.
    """

    def drawn(naming: Naming) -> dict[str, Figure]:
        return draw(metrics, naming) | (draw_labels(labels, naming) if labels else {})

    for name, figure in drawn(drawable).items():
        (folder / f"{name}.png").write_bytes(png(figure))
    pictures = {name: svg(figure) for name, figure in drawn(plain).items()}
    grids = labels.grids() if labels else []
    shown = PageContent(metrics, predictions, passages, pictures, grids)
    (folder / PAGE_FILE).write_text(render_page(shown), encoding="utf-8")
    text = _markdown(metrics, list(pictures), grids)
    (folder / "report.md").write_text(plain_markdown(text), encoding="utf-8")
    if labels:
        labels.write(folder)


def _markdown(metrics: Mapping[str, Any], pictures: Sequence[str], labels: Sequence[Grid]) -> str:
    """Return what MLflow's artifact viewer and a terminal show: first words, then numbers."""
    parts = ["# Evaluation", headline(metrics), score_table(metrics)]
    parts += [retrieval_line(metrics), machine_line(metrics)]
    parts += [f"**{answer.question}** {answer.text}" for answer in paragraphs(metrics)]
    turns = [turn_grid(metrics)] if "turns" in metrics else []
    usual = (comparison_grid(metrics), size_grid(metrics), slice_grid(metrics))
    for grid in (*labels, *turns, *usual):
        parts += [f"## {grid.title}", grid.markdown()]
    parts += _numbered(metrics)
    parts.append(" ".join(f"![{name}]({name}.png)" for name in pictures))
    parts.append(f"Every answer side by side, worst first: [{PAGE_FILE}]({PAGE_FILE}).")
    return "\n\n".join(parts) + "\n"


def _numbered(metrics: Mapping[str, Any]) -> list[str]:
    """Return which slices `slices.png` gives a number, because its font can't write their names."""
    names = list(slice_sizes(metrics))
    marks = [(drawable(name, place), plain(name, place)) for place, name in enumerate(names)]
    told = ", ".join(f"{mark} is {quoted(name)}" for mark, name in marks if mark != name)
    return [f"In `slices.png` {told}."] if told else []
