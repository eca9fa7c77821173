"""What is told of many summaries, in numbers and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.evaluation.aggregates import outcome_metrics
from tasks.records.predictions import Prediction
from tasks.records.text import normalise
from tasks.scoring.answer_scores import Metrics, length_metrics, mean_of, null
from tasks.scoring.grounding import unsupported_items
from tasks.scoring.tokens import answer_tokens

_EMPTY = "every summary is empty"


def summary_metrics(rows: Sequence[Prediction]) -> Metrics:
    """Return what summaries say beside their ROUGE.

    `compression` is the summaries' tokens over their sources', as sums; `longer_than_source` and
    `empty_outputs` are shares of the summaries. `unsupported_share` is the share of their numbers
    and names that the sources lack, null where they hold none. What begins with `reference` is of
    the reference summaries, the same for every system.
    """
    outputs, references = [row.output for row in rows], [row.reference for row in rows]
    sources = [row.question for row in rows]
    supported = {
        name: mean_of(name, [getattr(row, name) for row in rows], _EMPTY)
        for name in ("supported_terms", "supported_sentences")
    }
    return {
        **length_metrics(outputs, references),
        "compression": _tokens(outputs) / _tokens(sources),
        "reference_compression": _tokens(references) / _tokens(sources),
        "longer_than_source": sum((row.compression or 0) > 1 for row in rows) / len(rows),
        **supported["supported_terms"],
        **supported["supported_sentences"],
        **unsupported_share("unsupported_share", outputs, sources),
        **unsupported_share("reference_unsupported_share", references, sources),
        "empty_outputs": sum(not normalise(output) for output in outputs) / len(rows),
        **outcome_metrics(rows),
    }


def unsupported_share(name: str, summaries: Sequence[str], sources: Sequence[str]) -> Metrics:
    """Return which share of the summaries' numbers and names their sources lack.

    Each counts once a summary. Null with a reason where the summaries hold none.
    """
    held = sum(len(unsupported_items(summary, [""])) for summary in summaries)
    if not held:
        return null(name, "no summary holds a number or a name")
    lacking = sum(
        len(unsupported_items(summary, [source]))
        for summary, source in zip(summaries, sources, strict=True)
    )
    return {name: lacking / held}


def _tokens(texts: Sequence[str]) -> int:
    return sum(len(answer_tokens(text)) for text in texts)


def summaries_in_words(metrics: Mapping[str, Any]) -> str:
    """Return how far each system's summaries rest on their texts, and how long they are."""
    mode = metrics["primary"]["mode"]
    rows = {system: modes[mode] for system, modes in metrics["systems"].items() if mode in modes}
    told = "; of ".join(f"the {system} {_in_words(row)}" for system, row in rows.items())
    first = next(iter(rows.values()))
    invented = first["reference_unsupported_share"]
    references = (
        "hold no number and no name"
        if invented is None
        else f"bring in {invented:.1%} of their numbers and names, which is what is learned"
    )
    return (
        f"Of {told}. The reference summaries have {first['reference_compression']:.0%} of their "
        f"texts' length and {references}. A term is a word, or a pair of characters where words "
        "have no spaces between them. Names are told by their capitals, so not in Korean, Chinese "
        "or Japanese."
    )


def _in_words(row: Mapping[str, Any]) -> str:
    if row["supported_terms"] is None:
        return "every summary is empty"
    invented = row["unsupported_share"]
    lacking = (
        "they hold no number and no name"
        if invented is None
        else f"{invented:.1%} of their numbers and names are not in it"
    )
    text = (
        f"{row['supported_terms']:.1%} of the summaries' terms and "
        f"{row['supported_sentences']:.1%} of their sentences stand in the text, {lacking}, and "
        f"they have {row['compression']:.0%} of its length"
    )
    if row["longer_than_source"]:
        text += f" ({row['longer_than_source']:.1%} are longer than their text)"
    if row["empty_outputs"]:
        text += f" ({row['empty_outputs']:.1%} are empty)"
    return text
