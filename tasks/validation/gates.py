"""What stops the night: too many bad rows, a fatal rule, a set that is not what it was."""

from tasks.stage.errors import DataError
from tasks.validation.judging import SetVerdict, Verdict

_QUARANTINE = "data/scratch/validation/quarantine.jsonl"


def rows_error(verdict: Verdict, most: float) -> DataError | None:
    """Why the rows of one file stop the night, with the three worst of them, or None."""
    if verdict.fatal:
        counts = [f"{rule.name} ({verdict.broken[rule.name]} rows)" for rule in verdict.fatal]
        names = ", ".join(counts)
        found = f"{verdict.name} break rules that are fatal: {names}; expected none to"
        files = ", ".join(sorted({str(rule.file) for rule in verdict.fatal}))
        remedy = f"or make the rule's severity quarantine in {files}"
    elif verdict.share > most or (verdict.quarantined and not verdict.accepted):
        found = (
            f"{verdict.quarantined} of {verdict.current} {verdict.name} break a rule "
            f"({verdict.share:.1%}); expected at most {most:.1%}, so that a broken source is not "
            "learned from"
        )
        remedy = "or raise validation.max_quarantine_share"
    else:
        return None
    rules = ", ".join(f"{name}: {rows}" for name, rows in verdict.broken.most_common(5) if rows)
    worst = "\n".join(f"  {item.shown}" for item in verdict.worst)
    return DataError(
        f"{found}.\nRows by rule: {rules}. The worst (fatal rules first, then most rules broken):\n"
        f"{worst}",
        f"mend the rows that {_QUARANTINE} lists and take them in again, {remedy}",
    )


def set_error(verdict: SetVerdict) -> DataError | None:
    """Why the accepted rows together stop the night, or None."""
    if not verdict.fatal:
        return None
    lines = "\n".join(f"  {name}: {said}" for name, said in verdict.fatal.items())
    file = verdict.totals.suite.file
    return DataError(
        f"the accepted rows, taken together, break {len(verdict.fatal)} of the set's rules:\n"
        f"{lines}",
        "look at what the newest intake brought (data/scratch/validation/report.md); where the "
        f"change is meant, widen the rule in {file} until the next intake, which is compared with "
        "the set that is accepted now",
    )
