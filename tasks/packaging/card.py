"""The model card of a release bundle."""

from collections.abc import Mapping
from typing import Any

from tasks.lm.conversion import ModelManifest
from tasks.records.predictions import MODES, SCORE_NAMES

CARD_FILE = "model_card.md"


def model_card(
    metrics: Mapping[str, Any],
    parity: Mapping[str, float],
    base: ModelManifest,
    embedder: ModelManifest,
    numeric_form: str,
) -> str:
    """The card in Markdown: what the bundle holds, how it scored, how it is used, its limits."""
    primary = metrics["primary"]
    shares = ", ".join(f"{model} {share:.0%}" for model, share in parity.items())
    return "\n".join(
        [
            "# Model card",
            "",
            f"An adapter on `{base.name}` ({base.source}, {base.license}, digest "
            f"`{base.digest[:12]}`), a smaller student, and an index searched "
            f"with `{embedder.name}` ({embedder.source}, {embedder.license}). "
            f"Weights are scored and served in the form `{numeric_form}`, greedily.",
            "",
            f"## Scores on {metrics['records']} held-out records",
            "",
            *_score_lines(metrics["systems"]),
            "",
            *_comparison_lines(metrics["comparisons"]),
            "",
            f"Comparisons are paired by record, in mode {primary['mode']}, on {primary['metric']}. "
            f"Answers from the bundle itself that equal evaluation's: {shares}.",
            "",
            f"The student is `{metrics['offered']['folder']}`: {metrics['offered']['text']}.",
            "",
            "## Use",
            "",
            "`nightloom ask QUESTION` answers with the registered version, and `python -m "
            "tasks.serving --bundle PATH --store STORE --question QUESTION` with this folder. The "
            "base's weights are not in it: they are found in the store by their digest.",
            "",
            "## Limits",
            "",
            "The models answer questions of the kind that they were trained on, from the passages "
            "they are shown. The scores say nothing about other data, other languages than those "
            "of the data, or harmful requests. Passages are shown to the model as they are: index "
            "only documents that you trust.",
            "",
        ]
    )


def _score_lines(systems: Mapping[str, Any]) -> list[str]:
    lines = [
        "| system | mode | " + " | ".join(SCORE_NAMES) + " |",
        "|---|---|" + "---:|" * len(SCORE_NAMES),
    ]
    for system, modes in systems.items():
        for mode in (name for name in MODES if name in modes):
            cells = " | ".join(f"{modes[mode][name]:.3f}" for name in SCORE_NAMES)
            lines.append(f"| {system} | {mode} | {cells} |")
    return lines


def _comparison_lines(comparisons: Mapping[str, Any]) -> list[str]:
    return [
        f"- {name.replace('-', ' minus ')}: {found['difference']:+.3f} "
        f"({found['low']:+.3f} to {found['high']:+.3f}, {found['confidence']:.0%} interval)"
        for name, found in comparisons.items()
    ]
