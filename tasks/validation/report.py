"""What validation says to people: one page on what came in, what left and why, what was off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.records.withdrawals import IntakeWithdrawal
from tasks.validation.checks import FileResult, SetResult
from tasks.validation.expectations import DATA_DOCS_FILE

_SHOWN = 20


@dataclass(frozen=True)
class ValidationResult:
    """Everything that a night's validation found; `whole` is None where the rows failed before.

    `unmet` are the columns that params map and the newest intake's rows have not, by kind.
    """

    intakes: tuple[str, ...]
    withdrawn: tuple[IntakeWithdrawal, ...]
    files: tuple[FileResult, ...]
    whole: SetResult | None
    slices: Mapping[str, int]
    stopped: str | None
    unmet: Mapping[str, Sequence[str]]


def metrics(result: ValidationResult) -> dict[str, Any]:
    """Return the figures for `metrics.json`; one that can't be had is null, with its reason."""
    figures: dict[str, dict[str, Any]] = {
        file.name: {
            "current": file.current,
            "accepted": file.accepted,
            "quarantined": file.quarantined,
            "superseded": file.superseded,
            "quarantine_share": file.share,
        }
        | _counted("unlearned", file.unlearned)
        | _counted("unread", file.unread)
        for file in result.files
    }
    for file in result.files:
        if file.withdrawn:
            figures[file.name]["withdrawn"] = file.withdrawn
    back = {"intakes_withdrawn": len(result.withdrawn)} if result.withdrawn else {}
    rules = {file.name: _broken(file) for file in result.files}
    whole = result.whole
    return {
        "intakes": len(result.intakes),
        **back,
        **figures,
        "slices": dict(_largest(result.slices)),
        "rules": rules,
        "set": whole.figures.values if whole else {},
        "set_reasons": whole.figures.reasons if whole else {},
        "rules_off": whole.off if whole else {},
        "warnings": whole.warnings if whole else {},
    }


def render_report(result: ValidationResult) -> str:
    """Return the report, in Markdown."""
    blocks = [
        _head(result),
        _table(result),
        _withdrawn(result),
        *(_left(file) for file in result.files),
        *([unlearned_rows(file)] for file in result.files if file.unlearned),
        _unread(result),
        _set(result.whole),
        _slices(result.slices),
        [f"Every rule and what Great Expectations says of it: [Data Docs]({DATA_DOCS_FILE})."],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _head(result: ValidationResult) -> list[str]:
    newest = result.intakes[-1]
    stopped = [] if result.stopped is None else ["", f"**Stopped.** {result.stopped}"]
    return ["# Validation", "", f"{len(result.intakes)} intake(s), the newest {newest}.", *stopped]


def _table(result: ValidationResult) -> list[str]:
    return [
        "| | current | accepted | quarantined | replaced by a later intake |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {file.name} | {file.current} | {file.accepted} "
            f"| {file.quarantined} ({file.share:.2%}) | {file.superseded} |"
            for file in result.files
        ),
    ]


def _withdrawn(result: ValidationResult) -> list[str]:
    """Return which intakes were taken back, and how many rows are not current for that reason."""
    lines = [
        f"- Intake {item.intake} was withdrawn on {item.when[:10]} by {_cell(item.by)}: "
        f"{_cell(item.reason)}"
        for item in result.withdrawn
    ]
    lines += [
        f"- {file.withdrawn} {file.name} were withdrawn: their source no longer has them, or they "
        "were erased"
        for file in result.files
        if file.withdrawn
    ]
    return ["## Withdrawn", "", *lines] if lines else []


def _left(file: FileResult) -> list[str]:
    """Return why rows of one file left, and which rules only warned."""
    if not file.broken.total():
        return []
    lines = [f"## What left the {file.name}, and why", ""]
    lines += ["| rule | rows | severity | |", "|---|---:|---|---|"]
    for rule in file.totals.suite.rules:
        if file.broken[rule.name]:
            rows = file.broken[rule.name]
            lines.append(f"| {rule.name} | {rows} | {rule.severity} | {_cell(rule.notes)} |")
    if file.worst:
        lines += ["", "The worst of them; all are in quarantine.jsonl:", ""]
        lines += [f"- {_cell(item.shown)}" for item in file.worst]
    return lines


def unlearned_rows(file: FileResult) -> str:
    """Return in a sentence how many rows ask not to be learned from, and how they do."""
    said = ", ".join(f"{count} by {name}" for name, count in file.unlearned.most_common())
    return f"Left out of the {file.name}, as the rows ask for themselves: {said}."


def _unread(result: ValidationResult) -> list[str]:
    """Return what of the rows nobody reads, and what of `columns` in params met nothing."""
    lines = [
        f"| {file.name} | {_cell(name)} | {count} |"
        for file in result.files
        for name, count in _largest(file.unread)
    ]
    more = sum(max(len(file.unread) - _SHOWN, 0) for file in result.files)
    if lines:
        lines = ["## What nobody reads", "", "| | column or key | rows |", "|---|---|---:|", *lines]
    if more:
        lines += ["", f"and {more} more, that fewer rows hold"]
    for kind, names in result.unmet.items():
        shown = ", ".join(map(_cell, names))
        lines += ["", f"Named in `columns.{kind}` and in no row of the newest intake: {shown}."]
    return lines


def _counted(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    return {name: dict(_largest(counts))} if counts else {}


def _set(whole: SetResult | None) -> list[str]:
    if whole is None:
        return ["## The set", "", "Not checked: the rows stopped the night before."]
    lines = ["## The set", "", "| rule | found | verdict |", "|---|---|---|"]
    for rule in whole.totals.suite.rules:
        values = ", ".join(f"{x} {whole.figures.values[x]:.6g}" for x in rule.columns)
        said = "holds"
        if rule.name in whole.fatal or rule.name in whole.warnings:
            said = f"**broken** ({rule.severity}): {_cell(rule.expected)}"
        lines.append(f"| {rule.name} | {values} | {said} |")
    if whole.off:
        lines += ["", "Off, because their figure could not be had:", ""]
        lines += list(_off(whole.off))
    return lines


def _off(off: Mapping[str, str]) -> Iterator[str]:
    """Yield which rules are off, those with one reason on one line."""
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


def _largest(counts: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]


def _broken(file: FileResult) -> dict[str, int]:
    return {name: count for name, count in sorted(file.broken.items()) if count}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
