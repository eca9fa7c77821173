"""Rows judged batch by batch: which stand, which leave and why; and the set they make."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tasks.validation.batches import batched, frame
from tasks.validation.expectations import Finding, Judge
from tasks.validation.features import Row
from tasks.validation.figures import SetFigures, as_frame_row
from tasks.validation.quarantine import Breach, Quarantine, Quarantined
from tasks.validation.suites import Rule, Suite
from tasks.validation.totals import Totals

_SHOWN_CHARACTERS = 300


@dataclass
class Verdict:
    """What the rules say of one file, added up over its batches."""

    name: str
    totals: Totals
    accepted: int = 0
    quarantined: int = 0
    superseded: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    worst: list[Quarantined] = field(default_factory=list)

    @property
    def current(self) -> int:
        """How many rows there are, good or bad, without those that a later intake replaced."""
        return self.accepted + self.quarantined

    @property
    def share(self) -> float:
        """The share of the current rows that is in quarantine."""
        return self.quarantined / max(self.current, 1)

    @property
    def fatal(self) -> list[Rule]:
        """The fatal rules that rows break."""
        rules = self.totals.suite.rules
        return [rule for rule in rules if rule.severity == "fatal" and self.broken[rule.name]]


@dataclass(frozen=True)
class SetVerdict:
    """What the rules say of the accepted rows together.

    `off` are the rules that could not be asked, with the reason; the other two are those that the
    set breaks, with what was found.
    """

    figures: SetFigures
    totals: Totals
    off: dict[str, str]
    fatal: dict[str, str]
    warnings: dict[str, str]


@dataclass(frozen=True)
class Judged:
    """One batch, judged: the rows that stand, and the others with what they break."""

    accepted: list[Row]
    quarantined: list[tuple[Row, list[Breach]]]


def judge_rows(
    judge: Judge,
    rows: Iterable[Row],
    columns: Sequence[str],
    *,
    batch_rows: int,
    verdict: Verdict,
    prepare: Callable[[Sequence[Row]], None] = lambda batch: None,
) -> Iterator[Judged]:
    """Each batch of the rows, judged by GX; the verdict grows along. `prepare` sees each first.

    Raises:
        BrokenRuleError: a rule failed to run.
    """
    for batch in batched(rows, batch_rows):
        prepare(batch)
        findings = judge.findings(frame(batch, columns))
        verdict.totals.add(findings)
        judged = _judged(batch, findings)
        verdict.accepted += len(judged.accepted)
        verdict.quarantined += len(judged.quarantined)
        verdict.broken.update({finding.rule.name: len(finding.rows) for finding in findings})
        yield judged
        # Or this batch would stay in memory while the next one is read.
        del batch, findings, judged


def accept(
    judged: Iterable[Judged], quarantine: Quarantine, verdict: Verdict
) -> Iterator[list[Row]]:
    """The accepted rows of each batch; the others are written to quarantine on the way."""
    for batch in judged:
        quarantine.add(batch.quarantined)
        yield batch.accepted
        del batch
    verdict.worst = quarantine.worst


def judge_set(suite: Suite, figures: SetFigures) -> SetVerdict:
    """What the rules say of a set's figures; a rule without its figure is off."""
    off = {}
    for rule in suite.rules:
        missing = [name for name in rule.columns if figures.values[name] is None]
        if missing:
            off[rule.name] = f"{missing[0]}: {figures.reasons[missing[0]]}"
    asked = suite.without(off)
    totals = Totals(asked)
    findings = Judge(asked).findings(pd.DataFrame(as_frame_row(figures)))
    totals.add(findings)
    broken: dict[str, dict[str, str]] = {"fatal": {}, "warning": {}}
    for finding in findings:
        if not finding.result.success:
            values = ", ".join(f"{x} is {figures.values[x]:.6g}" for x in finding.rule.columns)
            said = f"{values}; expected {finding.rule.expected}. {finding.rule.notes}"
            broken[finding.rule.severity][finding.rule.name] = said
    return SetVerdict(figures, totals, off, broken["fatal"], broken["warning"])


def _judged(batch: Sequence[Row], findings: Sequence[Finding]) -> Judged:
    breaches: dict[int, list[Breach]] = {}
    for finding in findings:
        if finding.rule.severity != "warning":
            for place in finding.rows:
                reason = Breach(finding.rule, _reason(finding.rule, batch[place]))
                breaches.setdefault(place, []).append(reason)
    accepted = [row for place, row in enumerate(batch) if place not in breaches]
    return Judged(accepted, [(batch[place], found) for place, found in sorted(breaches.items())])


def _reason(rule: Rule, row: Row) -> str:
    values = [row.features.get(name) for name in rule.columns]
    if rule.columns[0].endswith("_fault"):
        return str(values[0])[:_SHOWN_CHARACTERS]
    found = zip(rule.columns, values, strict=True)
    said = " and ".join(f"{name} is {_shown(value)}" for name, value in found)
    return f"{said}; expected {rule.expected}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value)[:_SHOWN_CHARACTERS]
