"""What MLflow's page of a night says in words: its description, and those of its versions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.orchestration.mlflow_pages import artifact_page, run_page, version_page
from tasks.orchestration.night_figures import SYSTEMS, NightFigures, RowStep
from tasks.promotion.results import Reason
from tasks.records.schema import FEEDBACK_SPLIT, ServedModel
from tasks.registry.versions import model_name
from tasks.services.stores import RunRef

_CHANGES = 12  # params that are named; how many more there are is said

_CARD_SECTIONS = ("Scores on", "Licenses")


@dataclass(frozen=True)
class DecidedVersion:
    """What was decided of one version, and against which champion.

    `rules` are those that refused or warned; `reasons` say it where no rule was asked.
    """

    model: ServedModel
    version: int
    verdict: str
    champion: str
    rules: tuple[Reason, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Return the verdict in a few words: what refused, each with its number and bound."""
        refused = [_rule(rule) for rule in self.rules if rule.outcome == "refused"]
        warned = len(self.rules) - len(refused)
        if refused:
            more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
            return f"{self.verdict}: {', '.join(refused[:3])}{more}"
        if warned:
            return f"{self.verdict}, {warned} warning{'s' if warned > 1 else ''}"
        return self.verdict


@dataclass(frozen=True)
class Changes:
    """What differs between a night and the one that made a champion."""

    champion: str
    run: RunRef
    params: Mapping[str, tuple[str, str]]
    rows: tuple[int, int] | None = None
    commits: tuple[str, str] | None = None


@dataclass(frozen=True)
class NightPage:
    """All that the description of a night is made of.

    `reasons` say why where no model was decided about; `pages` are title -> artifact and the run
    that holds it; `stages` say in seconds how long each took; `steps` what each left of the rows.
    """

    night: str
    verdict: str
    run: RunRef
    reasons: Sequence[str] = ()
    models: Sequence[DecidedVersion] = ()
    figures: NightFigures = field(default_factory=NightFigures)
    changes: Sequence[Changes] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[RowStep] = ()
    pages: Mapping[str, tuple[RunRef, str]] = field(default_factory=dict)


def describe_night(page: NightPage) -> str:
    """Return the description of a night, in Markdown."""
    blocks = [
        [_headline(page)],
        _models(page.models),
        _rules(page.models),
        [f"- {_cell(reason)}" for reason in _words(page)],
        _scores(page.figures),
        [f"Rows: {'; '.join(map(str, page.steps))}."] if page.steps else [],
        [line for changes in page.changes for line in _changed(changes)],
        _links(page),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(page: NightPage) -> str:
    """Return all that MLflow's page shows of a description before "Show more": two or three lines.

    What was refused comes first.
    """
    models = sorted(page.models, key=lambda one: not one.verdict.startswith("refused"))
    told = [f"{one.model} {one.version} **{_cell(one.headline)}**" for one in models]
    return f"**{page.verdict}**: {'; '.join(told) or 'night ' + page.night}"


def describe_version(card: str, verdict: str, night: str, run: RunRef) -> str:
    """Return what MLflow shows of a registered version: its verdict, and its model card in short.

    `card` is the bundle's; of it stay the opening, the scores and the licenses.
    """
    opening, sections = _card_parts(card)
    kept = [f"## {title}\n\n{body}" for title, body in sections if title.startswith(_CARD_SECTIONS)]
    head = f"**{verdict}** (night [{night}]({run_page(run)}))"
    return "\n\n".join([head, *filter(None, [opening]), *kept])


def _card_parts(card: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a card's text before its first section, and its sections by title."""
    _, _, body = card.partition("# Model card\n")
    opening, *rest = body.split("\n## ")
    parts = [part.partition("\n") for part in rest]
    return opening.strip(), [(title.strip(), text.strip()) for title, _, text in parts]


def _models(models: Sequence[DecidedVersion]) -> list[str]:
    if not models:
        return []
    rows = [
        f"| [{one.model} {one.version}]({version_page(model_name(one.model), one.version)}) "
        f"| **{_cell(one.headline)}** | {_cell(one.champion)} |"
        for one in models
    ]
    return ["| model | verdict | compared with |", "|---|---|---|", *rows]


def _rules(models: Iterable[DecidedVersion]) -> list[str]:
    """Return a row a rule that refused or warned, those that refused first."""
    found = [(one.model, rule) for one in models for rule in one.rules]
    found.sort(key=lambda item: item[1].outcome != "refused")
    if not found:
        return []
    rows = [
        f"| {model} | {_cell(rule.rule)} {rule.outcome} | {_number(rule.value)} "
        f"| {_number(rule.bound)} | {_cell(rule.text)} |"
        for model, rule in found
    ]
    return ["| model | rule | found | bound | in words |", "|---|---|---:|---:|---|", *rows]


def _words(page: NightPage) -> list[str]:
    """Return the reasons that no rule gave."""
    of_models = [reason for one in page.models if not one.rules for reason in one.reasons[:1]]
    return [*page.reasons, *of_models]


def _scores(figures: NightFigures) -> list[str]:
    """Return systems by modes, with intervals."""
    named = [name for name in SYSTEMS if name in figures.scores]
    named += [name for name in figures.scores if name not in SYSTEMS]
    modes = list(dict.fromkeys(mode for name in named for mode in figures.scores[name]))
    if not modes:
        return ["No scores: evaluation left no report tonight."]
    head = [f"**{mode}**" if mode == figures.mode else mode for mode in modes]
    rows = [
        f"| {name} | "
        + " | ".join(str(figures.scores[name].get(mode, "not asked")) for mode in modes)
        + " |"
        for name in named
    ]
    said = f"{figures.metric} on {figures.records} held-out records, with intervals"
    bold = "; the mode in bold decides" if figures.mode else ""
    offered = "" if figures.student == "student" else f"; the student is `{figures.student}`"
    beside = ""
    if figures.feedback:
        beside = (
            f" Mode {FEEDBACK_SPLIT} asks {figures.feedback} served questions beside them, whose "
            "right answers people have given; they were not learned from, and no rule reads it."
        )
    return [
        f"{said}{bold}{offered}.{beside}",
        "",
        f"| system | {' | '.join(head)} |",
        f"|---|{'---:|' * len(modes)}",
        *rows,
    ]


def _changed(changes: Changes) -> Iterator[str]:
    """Yield what changed since a champion."""
    lines = [
        f"- `{name}`: {_cell(old)} before, {_cell(new)} now"
        for name, (old, new) in sorted(changes.params.items())
    ]
    if len(lines) > _CHANGES:
        lines = [*lines[:_CHANGES], f"- and {len(lines) - _CHANGES} more params"]
    if changes.rows is not None:
        lines.append(f"- rows: {changes.rows[0]:,} before, {changes.rows[1]:,} now")
    if changes.commits is not None:
        old, new = changes.commits
        lines.append(f"- git commit: `{old[:12]}` before, `{new[:12]}` now")
    yield f"Changed since the champion, [{changes.champion}]({run_page(changes.run)}):"
    yield ""
    yield from lines or ["- nothing: params, number of rows and git commit are the same"]


def _links(page: NightPage) -> list[str]:
    links = [f"[{title}]({artifact_page(*place)})" for title, place in page.pages.items()]
    minutes = [f"{name} {seconds / 60:.1f}" for name, seconds in page.stages.items() if seconds]
    lines = [f"Pages: {', '.join(links)}."] if links else []
    return [*lines, *([f"\nMinutes by stage: {', '.join(minutes)}."] if minutes else [])]


def _rule(rule: Reason) -> str:
    if rule.value is None:
        return rule.rule
    bound = "" if rule.bound is None else f" (bound {_number(rule.bound)})"
    return f"{rule.rule} {_number(rule.value)}{bound}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _cell(text: str) -> str:
    """Return a text as it can stand in a table's cell, where it can't make a link or a tag."""
    plain = " ".join(text.split())
    for mark in "|<[*":
        plain = plain.replace(mark, f"&#{ord(mark)};")
    return plain
