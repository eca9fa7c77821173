"""The tables of a model card, as lines of Markdown."""

from collections.abc import Mapping
from typing import Any

from tasks.packaging.contents import DOCUMENTS, SPLITS, Contents
from tasks.records.predictions import ALL_MODES, SCORE_NAMES

_MOST_SOURCES = 20
_TOLD = (
    "method", "rank", "alpha", "targets", "objective", "signal", "weights", "layers",
    "learning_rate", "fitted_learning_rate", "schedule", "epochs", "batch_examples",
    "token_budget", "seed",
)  # fmt: skip


def data_lines(contents: Contents) -> list[str]:
    """Rows by source and license; the sources beyond the largest twenty as one line."""
    rows = sorted(contents.rows.items(), key=lambda row: (-sum(row[1].values()), row[0]))
    columns = (*SPLITS, DOCUMENTS)
    lines = ["| source | license | " + " | ".join(columns) + " |"]
    lines += ["|---|---|" + "---:|" * len(columns)]
    for (source, license), counts in rows[:_MOST_SOURCES]:
        cells = " | ".join(f"{counts.get(name, 0):,}" for name in columns)
        lines.append(f"| {source or 'not stated'} | {license or 'not stated'} | {cells} |")
    rest = rows[_MOST_SOURCES:]
    if rest:
        sums = (sum(counts.get(name, 0) for _, counts in rest) for name in columns)
        cells = " | ".join(f"{count:,}" for count in sums)
        lines.append(f"| {len(rest)} more sources | | {cells} |")
    return lines


def score_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Every system in every mode, the primary metric with its interval."""
    name, confidence = metrics["primary"]["metric"], metrics["primary"]["confidence"]
    others = [other for other in SCORE_NAMES if other != name]
    lines = [
        f"| system | mode | {name} ({confidence:.0%} interval) | " + " | ".join(others) + " |",
        "|---|---|---:|" + "---:|" * len(others),
    ]
    for system, modes in metrics["systems"].items():
        for mode in (mode for mode in ALL_MODES if mode in modes):
            found = metrics["intervals"][system][mode]
            first = f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
            cells = " | ".join(f"{modes[mode][other]:.3f}" for other in others)
            lines.append(f"| {system} | {mode} | {first} | {cells} |")
    return lines


def comparison_lines(comparisons: Mapping[str, Any]) -> list[str]:
    """Each comparison with its interval, and the smallest difference that would have shown."""
    return [
        f"- {name.replace('-', ' minus ')}: {found['difference']:+.3f} "
        f"({found['low']:+.3f} to {found['high']:+.3f}, {found['confidence']:.0%} interval); "
        f"{_detectable(found)}"
        for name, found in comparisons.items()
    ]


def _detectable(found: Mapping[str, Any]) -> str:
    smallest = found["smallest_detectable"]
    if smallest is None:
        return str(found["smallest_detectable_reason"])
    return f"less than {smallest:.3f} could go unseen"


def forgetting_lines(found: Mapping[str, Any]) -> list[str]:
    """What the adapter lost of what the base could."""
    languages = ", ".join(
        f"{language} {ratio:.2f}"
        for language, ratio in found["perplexity_ratio_by_language"].items()
    )
    kept = found["instructions_kept"]
    told = found.get("instructions_kept_reason")
    if kept is not None:
        right = found["base"]["instructions_right"]
        told = f"{kept:.0%} of the {right} plain instructions that the base gets right are kept"
    return [
        f"The adapter's perplexity of general text is {found['perplexity_ratio']:.2f} times the "
        f"base's ({languages}); {told}."
    ]


def training_lines(trainings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The params that made each model, and hashes of what it was made from."""
    lines = []
    for model, found in trainings.items():
        params = found["params"]
        told = ", ".join(f"{name} {_shown(params[name])}" for name in _TOLD if name in params)
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        lines.append(
            f"- {model}: {told}; on data `{found['data_sha256'][:12]}`, prompt "
            f"`{found['template_sha256'][:12]}`, base form `{found['numeric_form']}`; {versions}"
        )
    return [*lines, "", "All of it is in `training.json` beside each model's weights."]


def _shown(value: Any) -> str:
    """A param's value; of a mapping what is not zero."""
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {part}" for name, part in value.items() if part) + ")"
    return str(value)
