"""The model card of a release bundle, made from the night's own numbers: `README.md`.

Its header is that of a Hugging Face model card, so that the folder is one as it lies there."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tasks.embedding.adapter import ADAPTER_FOLDER
from tasks.models.linear_maps import share_text
from tasks.models.manifest import ModelManifest
from tasks.packaging.task_cards import CARDS, purpose
from tasks.records.predictions import ALL_MODES, FEEDBACK
from tasks.records.schema import SPLITS, stream_documents, stream_records
from tasks.task_types.table import TrainedTask, evaluated_task

DOCUMENTS = "documents"


@dataclass(frozen=True)
class DataCounts:
    """Rows by (source, license): how many in each split, and how many documents."""

    rows: Mapping[tuple[str, str], Mapping[str, int]]


def count_data(curated: Path) -> DataCounts:
    """Return the counts of a curated data set."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for split in SPLITS:
        for record in stream_records(curated / f"{split}.jsonl"):
            found.setdefault((record.source, record.license), Counter())[split] += 1
    for document in stream_documents(curated / "documents.jsonl"):
        found.setdefault((document.source, document.license), Counter())[DOCUMENTS] += 1
    return DataCounts({key: found[key] for key in sorted(found)})


_MOST_SOURCES = 20

_TOLD = (
    "method", "rank", "alpha", "targets", "objective", "signal", "weights", "layers",
    "learning_rate", "fitted_learning_rate", "schedule", "epochs", "batch_examples",
    "token_budget", "documents_share", "preferences", "seed",
)  # fmt: skip


def data_lines(contents: DataCounts) -> list[str]:
    """Return rows by source and license; the sources beyond the largest twenty as one line."""
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
    """Return every system in every mode, the primary metric with its interval."""
    name, confidence = metrics["primary"]["metric"], metrics["primary"]["confidence"]
    told = CARDS[evaluated_task(metrics).name].beside
    others = [other for other in told if other != name]
    lines = [
        f"| system | mode | {name} ({confidence:.0%} interval) | " + " | ".join(others) + " |",
        "|---|---|---:|" + "---:|" * len(others),
    ]
    for system, modes in metrics["systems"].items():
        for mode in (mode for mode in ALL_MODES if mode in modes):
            found = metrics["intervals"][system][mode]
            first = f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
            cells = " | ".join(_cell(modes[mode][other]) for other in others)
            lines.append(f"| {system} | {mode} | {first} | {cells} |")
    asked = metrics["asked"].get(FEEDBACK)
    if asked:
        lines += ["", f"Mode {FEEDBACK} asks {asked} other questions: served ones, whose right "
                      "answers people have given, and which were not learned from."]  # fmt: skip
    return lines


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def comparison_lines(comparisons: Mapping[str, Any]) -> list[str]:
    """Return each comparison with its interval, and the smallest difference that would show."""
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
    """Return what the adapter lost of what the base could."""
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
    """Return the params that made each model, and hashes of what it was made from."""
    lines = []
    for model, found in trainings.items():
        params = found["params"]
        told = ", ".join(_shown_param(name, params[name]) for name in _TOLD if name in params)
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        lines.append(
            f"- {model}: {told}; on data `{found['data_sha256'][:12]}`, prompt "
            f"`{found['template_sha256'][:12]}`, base form `{found['numeric_form']}`"
            f"{_shown_shares(found.get('shares'))}; {versions}"
        )
    return [*lines, "", "All of it is in `training.json` beside each model's weights."]


def _shown_shares(shares: Mapping[str, float] | None) -> str:
    """Return which shares of the base are rounded and adapted; nothing where that is not told."""
    if shares is None:
        return ""
    told = " and ".join(f"{share_text(share)} {name}" for name, share in shares.items())
    return f" ({told}, of the decoder's weights)"


def _shown_param(name: str, value: Any) -> str:
    """Return a param's name and value; of a mapping what is not zero."""
    if isinstance(value, Mapping):
        return f"{name} ({', '.join(f'{key} {part}' for key, part in value.items() if part)})"
    if (name, value) == ("targets", "all"):
        return "targets all linear layers"
    return f"{name} {value}"


CARD_FILE = "README.md"

_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made of.

    `metrics` are evaluation's; `trainings` what made the adapter and the student, by name; `parity`
    the share of the bundle's answers that are evaluation's, by model; `gain` what a trained
    embedder finds more than its base, None where search uses the base.
    """

    metrics: Mapping[str, Any]
    parity: Mapping[str, float]
    contents: DataCounts
    trainings: Mapping[str, Mapping[str, Any]]
    base: ModelManifest
    embedder: ModelManifest
    numeric_form: str
    max_new_tokens: int
    task: TrainedTask = field(default_factory=TrainedTask)
    gain: Mapping[str, Any] | None = None


def model_card(facts: CardFacts) -> str:
    """Return the card: a header for the hub, then what people ask, in Markdown."""
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
    """Return a license as the hub names it; `other` for what is no identifier."""
    return text.lower() if _LICENSE_ID.fullmatch(text.lower()) else "other"


def _header(facts: CardFacts) -> ModelCardData:
    primary, base, card = facts.metrics["primary"], facts.base, CARDS[facts.task.name]
    identity = license_id(base.license)
    named: dict[str, Any] = {"license_name": base.license} if identity == "other" else {}
    found = facts.metrics["intervals"]
    systems = ("adapter", facts.metrics["offered"]["system"])
    results = [
        EvalResult(
            task_type=card.hub_task,
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
        tags=["nightloom", card.hub_task, *card.tags],
        **named,
    )


def _opening(facts: CardFacts) -> str:
    base, embedder = facts.base, facts.embedder
    return (
        f"An adapter on `{base.name}` ({base.source}, digest `{base.digest[:12]}`), a smaller "
        f"student, and an index searched with `{embedder.name}` ({embedder.source})"
        f"{_learned_search(facts.gain)}. The base's "
        "weights are not in this folder: `base.json` names them by source and SHA-256."
    )


def _learned_search(gain: Mapping[str, Any] | None) -> str:
    """Return what the embedder learned and what that gained, nothing where it is the base one."""
    if gain is None:
        return ""
    learned = {
        "questions": "questions and passages of this data",
        "spans": "pairs of spans of this data's documents",
    }[gain["pairs"]]
    asked = "held-out spans" if gain["questions_are_spans"] else "validation questions"
    base, trained, more = (gain[name]["recall"] for name in ("base", "trained", "difference"))
    return (
        f", which learned from {learned} (`{ADAPTER_FOLDER}/`, LoRA): on {gain['questions']} "
        f"{asked} its recall at {gain['recall_at']} is {trained['value']:.3f}, the base's "
        f"{base['value']:.3f} (difference {more['value']:+.3f}, {more['low']:+.3f} to "
        f"{more['high']:+.3f})"
    )


def _use(facts: CardFacts) -> list[str]:
    return [
        *purpose(facts.task),
        "",
        "- `nightloom ask QUESTION` and `mlflow models serve` answer with the registered version; "
        "`agent.py` is what MLflow loads.",
        "- `python -m tasks.answering --bundle PATH --store STORE --question QUESTION` answers "
        "with this folder alone.",
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
    shares = facts.trainings["adapter"].get("shares")
    part = f", {share_text(shares['quantised'])} of its decoder's," if shares else ""
    return [
        f"The base's linear weights{part} are scored and served in the form "
        f"`{facts.numeric_form}`, computed in float32 with the adapter merged in; the student as "
        "it was saved. What other forms cost is measured by `nightloom export VERSION --measure`."
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
