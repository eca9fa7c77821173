"""The evaluation in plain words: what each step of the night bought or cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.evaluation.call_metrics import calls_in_words
from tasks.evaluation.grids import (
    interval,
    joined,
    shown_metric,
    shown_mode,
    sides,
    signed_interval,
)
from tasks.evaluation.label_report import labels_in_words, linear_in_words
from tasks.evaluation.summary_metrics import summaries_in_words
from tasks.evaluation.turns import turns_in_words
from tasks.records.predictions import DISTRACTOR, FEEDBACK, INJECTED
from tasks.task_types.chat import CHAT
from tasks.task_types.classify import CLASSIFY, LINEAR
from tasks.task_types.summarize import SUMMARIZE
from tasks.task_types.table import evaluated_task
from tasks.task_types.tools import TOOLS

_QUESTIONS = {
    "adapter-base": "What did fine-tuning buy?",
    "student-base": "What does the student buy over the base?",
    "student-adapter": "What did distillation cost?",
    "student-control": "What did the teacher buy?",
    "control-base": "What does the control, which is offered, buy over the base?",
    "control-adapter": "What did the smaller model cost?",
    f"adapter-{LINEAR}": "Is the adapter better than a linear model of words?",
}

_FINE_TUNING = "adapter-base"


@dataclass(frozen=True)
class Paragraph:
    """A question that a night is asked, and what its numbers say, in one paragraph."""

    question: str
    text: str


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the one sentence to read first: whether fine-tuning paid, and how sure that is."""
    found = metrics["comparisons"][_FINE_TUNING]
    if found["low"] > 0:
        said = "The adapter is better than the base"
    elif found["high"] < 0:
        said = "The adapter is worse than the base"
    else:
        said = "The adapter can't be told from the base"
    about = f"{shown_metric(found['metric'])}, {shown_mode(found['mode'])}"
    bounds = f"{found['low']:+.3f} to {found['high']:+.3f}"
    return (
        f"{said}: {found['difference']:+.3f} {about} ({found['confidence']:.0%} interval {bounds})."
    )


def paragraphs(metrics: Mapping[str, Any]) -> list[Paragraph]:
    """Return every question with its answer: what each step bought, what it cost, and what is
    offered.

    What was not measured is not asked.
    """
    told = {name: _comparison(name, metrics) for name in metrics["comparisons"]}
    first = [told.pop(_FINE_TUNING)] if _FINE_TUNING in told else []
    linear = f"adapter-{LINEAR}"
    if linear in told:
        first.append(Paragraph(told.pop(linear).question, linear_in_words(metrics)))
    task = evaluated_task(metrics)
    if task == CLASSIFY:
        first.append(Paragraph("Which labels are given?", labels_in_words(metrics)))
    if task == SUMMARIZE:
        first.append(Paragraph("Do summaries say what texts say?", summaries_in_words(metrics)))
    if task == CHAT:
        first.append(Paragraph("How do later turns do?", turns_in_words(metrics)))
    if task == TOOLS:
        first.append(Paragraph("Are the right tools called?", calls_in_words(metrics)))
    further = (
        ("What did fine-tuning forget?", _forgotten(metrics)),
        ("Who abstains when only wrong passages are shown?", _abstention(metrics)),
        ("Are instructions inside passages followed?", _orders(metrics)),
        ("How is held-out feedback answered?", _feedback(metrics)),
        ("Would another prompt do better?", _prompts(metrics)),
    )
    return [
        *first,
        Paragraph("What did retrieval buy?", _retrieval(metrics)),
        *told.values(),
        Paragraph("Which student is offered?", _offer(metrics)),
        *(Paragraph(question, text) for question, text in further if text is not None),
    ]


def _comparison(name: str, metrics: Mapping[str, Any]) -> Paragraph:
    found = metrics["comparisons"][name]
    left, right = sides(name, metrics["systems"])
    low, high = found["low"], found["high"]
    if low > 0:
        said = f"The {left} scores higher than the {right}"
    elif high < 0:
        said = f"The {left} scores lower than the {right}"
    else:
        said = f"The {left}'s score can't be told from the {right}'s"
    text = (
        f"{said}: {found['difference']:+.3f} "
        f"{shown_metric(found['metric'])} in mode {shown_mode(found['mode'])} "
        f"({found['confidence']:.0%} interval {low:+.3f} to {high:+.3f}, paired by record"
        f"{_chance(found)}).{_power(found)}"
    )
    if right == "adapter" and {left, right} <= metrics["sizes"].keys():
        text += f" {_saving(metrics['sizes'][left], metrics['sizes'][right])}"
    return Paragraph(_QUESTIONS.get(name, f"How does {left} compare with {right}?"), text)


def _chance(found: Mapping[str, Any]) -> str:
    """Return what the permutation test says, where there was one."""
    if found.get("p_value") is None:
        return ""
    holm = found.get("p_value_holm")
    corrected = "" if holm is None else f", after Holm's correction p {_probability(holm)}"
    return f"; p {_probability(found['p_value'])}{corrected}"


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _power(found: Mapping[str, Any]) -> str:
    """Return how small a difference could have been seen, where that is known."""
    smallest = found.get("smallest_detectable")
    if smallest is None:
        reason = found.get("smallest_detectable_reason")
        return f" How small a difference would show can't be told: {reason}." if reason else ""
    records = f"With {found['records']} records a" if found.get("records") else "A"
    return f" {records} real difference below {smallest:.3f} would usually not show."


def _saving(left: Mapping[str, float], right: Mapping[str, float]) -> str:
    """Return what the smaller model saves in size."""
    parts = []
    named = {"parameters": "parameters", "megabytes": "megabytes of weights in memory"}
    for name, what in named.items():
        share = 1 - left[name] / right[name]
        less = f"{abs(share):.0%} {'fewer' if share > 0 else 'more'}"
        parts.append(f"{'as many' if abs(share) < 0.005 else less} {what}")
    return f"In return it has {joined(parts)}."


def _retrieval(metrics: Mapping[str, Any]) -> str:
    gains = metrics["gains"]
    metric = shown_metric(metrics["primary"]["metric"])
    bought = _pairs(gains, "retrieved-closed_book")
    if not bought:
        return "Nothing: the data set has no documents, so every answer is closed book."
    text = (
        f"With retrieved passages, {metric} changes by {joined(bought)}."
        f"{_unseen(gains, 'retrieved-closed_book')}"
    )
    missed = _pairs(gains, "oracle-retrieved")
    if missed:
        text += (
            f" With the right passage always among them (mode oracle), it changes further by "
            f"{joined(missed)}.{_unseen(gains, 'oracle-retrieved')} What is then still wrong is "
            "the model's fault, not the retriever's."
        )
    text += _halves(metrics["retrieval"])
    gone = metrics["retrieval"].get("records_without_gold_document")
    if gone:
        text += (
            f" {gone} records name documents that are gone from the index: they can be neither "
            "found nor shown, and were not asked in mode oracle."
        )
    return text


def _halves(found: Mapping[str, Any]) -> str:
    """Return what each half of search is worth, where that was measured."""
    if found.get("validation_mrr_fused") is None:
        return ""
    lexical, dense, fused = (
        found[f"validation_mrr_{name}"] for name in ("lexical", "dense", "fused")
    )
    counts = f"{found['lexical_weight']:g} to {found['dense_weight']:g}"
    return (
        f" On validation questions BM25 alone has a mean reciprocal rank of {lexical:.3f}, dense "
        f"search alone {dense:.3f}, and search as it is (they count {counts}) {fused:.3f}; the "
        "index's report has the intervals."
    )


def _pairs(gains: Mapping[str, Any], pair: str) -> list[str]:
    return [
        f"{signed_interval(found[pair])} for {system}"
        for system, found in gains.items()
        if pair in found
    ]


def _unseen(gains: Mapping[str, Any], pair: str) -> str:
    """Return the largest difference that could have gone unseen of any system, in a sentence."""
    known = [found[pair].get("smallest_detectable") for found in gains.values() if pair in found]
    shown = [value for value in known if value is not None]
    if not shown:
        return " How small a change would show can't be told: no answer changed."
    return f" A real change below {max(shown):.3f} would usually not show."


def _offer(metrics: Mapping[str, Any]) -> str:
    found = metrics["offered"]
    text = str(found["text"])
    text = text[:1].upper() + text[1:]
    kept = found["offered_retention"]
    if kept is None:
        return f"{text}. What it keeps cannot be told: {found['retention_reason']}."
    enough = "" if found["keeps_enough"] else ", less than it should"
    return (
        f"The {found['system']} {found['name']}. It keeps {kept['value']:.0%} "
        f"[{kept['low']:.0%}, {kept['high']:.0%}] of the adapter's score{enough}. {text}."
    )


def _forgotten(metrics: Mapping[str, Any]) -> str | None:
    found = metrics.get("forgetting")
    if found is None:
        return None
    before, after = (found[system]["perplexity"] for system in ("base", "adapter"))
    text = (
        f"On general text the adapter's perplexity is {after:.1f}, "
        f"{found['perplexity_ratio']:.2f} times the base's {before:.1f}. "
    )
    if found["instructions_kept"] is None:
        reason = found["instructions_kept_reason"]
        return f"{text}How it follows plain instructions can't be told: {reason}."
    right = found["base"]["instructions_right"]
    return text + (
        f"The base follows {right} plain instructions; the adapter still follows "
        f"{found['instructions_kept']:.0%} of these."
    )


def _abstention(metrics: Mapping[str, Any]) -> str | None:
    shares = [
        f"the {system} on {modes[DISTRACTOR]['abstention_recall']:.0%}"
        for system, modes in metrics["systems"].items()
        if DISTRACTOR in modes
    ]
    if not shares:
        return None
    records = metrics["asked"][DISTRACTOR]
    return (
        f"The right answer is then that the passages do not say it. Of {records} such records, it "
        f"is given by {joined(shares)}."
    )


def _orders(metrics: Mapping[str, Any]) -> str | None:
    found = metrics.get("injections")
    if not found:
        return None
    told = [
        f"by the {system} in {row['obeyed']:.0%} of {row['records']} records "
        f"({shown_metric(row['metric'])} {signed_interval(row)})"
        for system, row in found.items()
    ]
    unseen = _unseen({system: {INJECTED: row} for system, row in found.items()}, INJECTED)
    return f"They are data, and should not be. They are followed {joined(told)}.{unseen}"


def _feedback(metrics: Mapping[str, Any]) -> str | None:
    told = [
        f"{interval(modes[FEEDBACK])} by the {system}"
        for system, modes in metrics["intervals"].items()
        if FEEDBACK in modes
    ]
    if not told:
        return None
    metric = shown_metric(metrics["primary"]["metric"])
    return (
        f"{metrics['asked'][FEEDBACK]} served questions, whose right answers people have given, "
        f"were not learned from. {metric} against these answers is {joined(told)}. No rule of "
        "promotion reads it."
    )


def _prompts(metrics: Mapping[str, Any]) -> str | None:
    found = metrics.get("prompts", {}).get("comparison")
    if found is None:
        return None
    told = []
    for system, scores in found["scores"].items():
        values = [f"{name.replace('_', ' ')} {interval(row)}" for name, row in scores.items()]
        best = found["best"][system].replace("_", " ")
        told.append(f"for the {system} {best} is best ({', '.join(values)})")
    return (
        f"By {shown_metric(found['metric'])} in mode {shown_mode(found['mode'])} on "
        f"{found['records']} validation records {joined(told)}. The base is asked with its best; "
        "what is served keeps the prompt that it was trained with."
    )
