"""The model card of a release bundle, made from the night's own numbers: `README.md`.

Its header is that of a Hugging Face model card, so that the folder is one as it lies there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tasks.lm.conversion import ModelManifest
from tasks.packaging.card_tables import (
    comparison_lines,
    data_lines,
    forgetting_lines,
    score_lines,
    training_lines,
)
from tasks.packaging.contents import Contents

CARD_FILE = "README.md"
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made of.

    `metrics` are evaluation's; `trainings` what made the adapter and the student, by name; `parity`
    the share of the bundle's answers that are evaluation's, by model.
    """

    metrics: Mapping[str, Any]
    parity: Mapping[str, float]
    contents: Contents
    trainings: Mapping[str, Mapping[str, Any]]
    base: ModelManifest
    embedder: ModelManifest
    numeric_form: str
    max_new_tokens: int


def model_card(facts: CardFacts) -> str:
    """The card: a header for the hub, then what people ask, in Markdown."""
    sections = {
        "Intended use": _use(facts),
        "Data": data_lines(facts.contents),
        "Licenses": _licenses(facts),
        f"Scores on {facts.metrics['records']} held-out records": _scores(facts),
        "What fine-tuning forgot": forgetting_lines(facts.metrics["forgetting"]),
        "How it was trained": training_lines(facts.trainings),
        "Numeric form": _form(facts),
        "Limits": _limits(facts),
    }
    lines = ["---", _header(facts).to_yaml(), "---", "", "# Model card", "", _opening(facts), ""]
    for title, body in sections.items():
        lines += [f"## {title}", "", *body, ""]
    return "\n".join(lines)


def license_id(text: str) -> str:
    """A license as the hub names it; `other` for what is no identifier."""
    return text.lower() if _LICENSE_ID.fullmatch(text.lower()) else "other"


def _header(facts: CardFacts) -> ModelCardData:
    primary, base = facts.metrics["primary"], facts.base
    identity = license_id(base.license)
    named: dict[str, Any] = {"license_name": base.license} if identity == "other" else {}
    found = facts.metrics["intervals"]
    systems = ("adapter", facts.metrics["offered"]["system"])
    results = [
        EvalResult(
            task_type="question-answering",
            dataset_type="held-out",
            dataset_name=f"{facts.metrics['records']} records of the test split",
            dataset_config=system,
            metric_type="f1" if primary["metric"] == "token_f1" else primary["metric"],
            metric_name=f"{primary['metric']}, {primary['mode']}",
            metric_value=round(found[system][primary["mode"]]["value"], 4),
        )
        for system in systems
    ]
    return ModelCardData(
        base_model=base.source.removeprefix("hub:"),
        library_name="peft",
        license=identity,
        model_name="nightloom",
        eval_results=results,
        tags=["nightloom", "question-answering", "retrieval"],
        **named,
    )


def _opening(facts: CardFacts) -> str:
    base, embedder = facts.base, facts.embedder
    return (
        f"An adapter on `{base.name}` ({base.source}, digest `{base.digest[:12]}`), a smaller "
        f"student, and an index searched with `{embedder.name}` ({embedder.source}). The base's "
        "weights are not in this folder: `base.json` names them by source and SHA-256."
    )


def _use(facts: CardFacts) -> list[str]:
    return [
        "Short answers to questions of the kind in its data, read from passages of its own index, "
        "or `I don't know` where these do not tell.",
        "",
        "- `nightloom ask QUESTION` and `mlflow models serve` answer with the registered version; "
        "`agent.py` is what MLflow loads.",
        "- `python -m tasks.serving --bundle PATH --store STORE --question QUESTION` answers with "
        "this folder alone.",
        "- `adapter/` is in peft's own format, `student/` a plain Hugging Face folder; "
        "`adapter/prompt/` holds the prompt that both learned.",
        f"- Answers are decoded greedily, up to {facts.max_new_tokens} tokens (`settings.json`).",
    ]


def _licenses(facts: CardFacts) -> list[str]:
    base, embedder = facts.base, facts.embedder
    data = _joined(license for _, license in facts.contents.rows)
    return [
        f"- base: {base.license} ({base.source})",
        f"- embedder: {embedder.license} ({embedder.source})",
        f"- data: {data}",
    ]


def _scores(facts: CardFacts) -> list[str]:
    metrics, primary = facts.metrics, facts.metrics["primary"]
    shares = ", ".join(f"{model} {share:.0%}" for model, share in facts.parity.items())
    return [
        *score_lines(metrics),
        "",
        *comparison_lines(metrics["comparisons"]),
        "",
        f"Comparisons are paired by record, in mode {primary['mode']}, on {primary['metric']}. "
        f"Answers from the bundle itself that equal evaluation's: {shares}.",
        "",
        f"The student is `{metrics['offered']['folder']}`: {metrics['offered']['text']}.",
    ]


def _form(facts: CardFacts) -> list[str]:
    return [
        f"The base's linear weights are scored and served in the form `{facts.numeric_form}`, "
        "computed in float32 with the adapter merged in; the student as it was saved. What other "
        "forms cost is measured by `nightloom export VERSION --measure`."
    ]


def _limits(facts: CardFacts) -> list[str]:
    machine = facts.metrics["machine"]
    return [
        "The scores say nothing about other data, other languages than those of the data, or "
        "harmful requests; nothing was done to refuse these. Passages are quoted as data, and a "
        "model may still obey what it reads: index only documents that you trust. The scores "
        f"were computed on {machine['processor']}, {machine['cores']} cores, {machine['device']}.",
    ]


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted({name or "not stated" for name in names}))
