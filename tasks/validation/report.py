"""What validation says to people: one page on what came in, what left and why, what was off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.validation.checks import FileResult, SetResult
from tasks.validation.expectations import DATA_DOCS_FILE

_SHOWN = 20


@dataclass(frozen=True)
class ValidationResult:
    """Everything that a night's validation found; `whole` is None where the rows failed before."""

    intakes: tuple[str, ...]
    verdicts: tuple[FileResult, ...]
    whole: SetResult | None
    slices: Mapping[str, int]
    stopped: str | None


def metrics(outcome: ValidationResult) -> dict[str, Any]:
    """The figures for `metrics.json`; a figure that can't be had is null, its reason beside it."""
    figures = {
        verdict.name: {
            "current": verdict.current,
            "accepted": verdict.accepted,
            "quarantined": verdict.quarantined,
            "superseded": verdict.superseded,
            "quarantine_share": verdict.share,
        }
        for verdict in outcome.verdicts
    }
    rules = {verdict.name: _broken(verdict) for verdict in outcome.verdicts}
    whole = outcome.whole
    return {
        "intakes": len(outcome.intakes),
        **figures,
        "slices": dict(_largest(outcome.slices)),
        "rules": rules,
        "set": whole.figures.values if whole else {},
        "set_reasons": whole.figures.reasons if whole else {},
        "rules_off": whole.off if whole else {},
        "warnings": whole.warnings if whole else {},
    }


def render_report(outcome: ValidationResult) -> str:
    """The report, in Markdown."""
    blocks = [
        _head(outcome),
        _table(outcome),
        *(_left(verdict) for verdict in outcome.verdicts),
        _set(outcome.whole),
        _slices(outcome.slices),
        [f"Every rule and what Great Expectations says of it: [Data Docs]({DATA_DOCS_FILE})."],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _head(outcome: ValidationResult) -> list[str]:
    newest = outcome.intakes[-1]
    stopped = [] if outcome.stopped is None else ["", f"**Stopped.** {outcome.stopped}"]
    return ["# Validation", "", f"{len(outcome.intakes)} intake(s), the newest {newest}.", *stopped]


def _table(outcome: ValidationResult) -> list[str]:
    return [
        "| | current | accepted | quarantined | replaced by a later intake |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {verdict.name} | {verdict.current} | {verdict.accepted} "
            f"| {verdict.quarantined} ({verdict.share:.2%}) | {verdict.superseded} |"
            for verdict in outcome.verdicts
        ),
    ]


def _left(verdict: FileResult) -> list[str]:
    """Why rows of one file left, and which rules only warned."""
    if not verdict.broken.total():
        return []
    lines = [f"## What left the {verdict.name}, and why", ""]
    lines += ["| rule | rows | severity | |", "|---|---:|---|---|"]
    for rule in verdict.totals.suite.rules:
        if verdict.broken[rule.name]:
            rows = verdict.broken[rule.name]
            lines.append(f"| {rule.name} | {rows} | {rule.severity} | {_cell(rule.notes)} |")
    if verdict.worst:
        lines += ["", "The worst of them; all are in quarantine.jsonl:", ""]
        lines += [f"- {_cell(item.shown)}" for item in verdict.worst]
    return lines


def _set(whole: SetResult | None) -> list[str]:
    if whole is None:
        return ["## The set", "", "Not judged: the rows stopped the night before."]
    lines = ["## The set", "", "| rule | found | verdict |", "|---|---|---|"]
    for rule in whole.totals.suite.rules:
        values = ", ".join(f"{x} {whole.figures.values[x]:.6g}" for x in rule.columns)
        verdict = "holds"
        if rule.name in whole.fatal or rule.name in whole.warnings:
            verdict = f"**broken** ({rule.severity}): {_cell(rule.expected)}"
        lines.append(f"| {rule.name} | {values} | {verdict} |")
    if whole.off:
        lines += ["", "Off, because their figure could not be had:", ""]
        lines += list(_off(whole.off))
    return lines


def _off(off: Mapping[str, str]) -> Iterator[str]:
    """Which rules are off, those with one reason on one line."""
    by_reason: dict[str, list[str]] = {}
    for rule, said in off.items():
        by_reason.setdefault(said.partition(": ")[2], []).append(rule)
    for reason, rules in by_reason.items():
        yield f"- {', '.join(rules)}: {reason}"


def _slices(slices: Mapping[str, int]) -> list[str]:
    if not slices:
        return []
    shown = _largest(slices)
    lines = ["## Slices", "", "| slice | records |", "|---|---:|"]
    lines += [f"| {_cell(name)} | {count} |" for name, count in shown]
    if len(slices) > len(shown):
        lines += ["", f"and {len(slices) - len(shown)} smaller ones"]
    return lines


def _largest(slices: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(slices.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]


def _broken(verdict: FileResult) -> dict[str, int]:
    return {name: count for name, count in sorted(verdict.broken.items()) if count}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
