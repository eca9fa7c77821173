"""What the stage tells people: which embedder search uses, and by what numbers."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tasks.retriever_training.params import RetrieverParams

if TYPE_CHECKING:
    from tasks.retriever_training.gate import Score
    from tasks.retriever_training.retriever import Learned, Outcome
    from tasks.statistics.bootstrap import Interval

OFF = (
    "# The embedder of search\n\nSearch uses the embedder of `params/models.yaml` as it is: "
    "`retriever_training.enabled` is false.\n"
)
_REASONS = {
    "better": "Search uses the trained embedder: its recall is better than the base's by its "
    "interval.",
    "not_better": "Search uses the base embedder: the trained one's recall is not better by its "
    "interval, and what it learned is left out.",
    "found_all": "Search uses the base embedder: it finds a right document for every question, so "
    "nothing was trained.",
    "too_few": "Search uses the base embedder, and nothing was trained: with {questions} "
    "{asked}, fewer than `gate.least_questions` ({least}), nobody could tell whether it helped.",
}


def metrics(found: "Outcome | None", params: RetrieverParams) -> dict[str, Any]:
    """Return the report as `metrics.json` holds it; None stands for a stage that is off."""
    if found is None:
        return {"enabled": False, "trained": False, "reason": "off"}
    told: dict[str, Any] = {
        "enabled": True,
        "trained": found.is_trained,
        "reason": found.reason,
        "pairs_of": params.pairs,
        "questions": found.questions,
        "questions_are_spans": found.are_spans,
    }
    scores = {"lexical": found.lexical, "base": found.base}
    if found.learned is not None:
        gain = found.learned.gain
        scores |= {"trained": gain.trained, "difference": gain.difference}
    known = {name: one for name, one in scores.items() if one is not None}
    if known:
        recall = {name: asdict(one.recall) for name, one in known.items()}
        told[f"recall_at_{params.gate.recall_at}"] = recall
        told["mrr"] = {name: asdict(one.mrr) for name, one in known.items()}
    if found.learned is not None:
        told["pairs"] = asdict(found.learned.pairs)
        told["training"] = asdict(found.learned.training)
    return told


def report(found: "Outcome", params: RetrieverParams) -> str:
    """Return the report in Markdown."""
    asked = "sentences of other documents" if found.are_spans else "validation questions"
    reason = _REASONS[found.reason].format(
        questions=found.questions, asked=asked, least=params.gate.least_questions
    )
    parts = ["# The embedder of search", reason]
    if found.base is not None and found.lexical is not None:
        parts.append(_table(found, params, asked))
    if found.learned is not None:
        parts += [_training(found.learned, params), "![losses](loss.png)"]
    return "\n\n".join(parts) + "\n"


def _table(found: "Outcome", params: RetrieverParams, asked: str) -> str:
    scores = {"BM25 alone": found.lexical, "base embedder alone": found.base}
    if found.learned is not None:
        scores["trained embedder alone"] = found.learned.gain.trained
    rows = [f"| {name} | {_cells(one)} |" for name, one in scores.items() if one is not None]
    if found.learned is not None:
        told = found.learned.gain.difference
        rows.append(f"| trained less base | {_cell(told.recall, '+')} | {_cell(told.mrr, '+')} |")
    return (
        f"On {found.questions} {asked}; {params.gate.confidence:.0%} intervals, differences paired "
        "by question. The weights of the halves, and what both find together, are in indexing's "
        "report.\n\n"
        f"| | recall at {params.gate.recall_at} | MRR |\n|---|---|---|\n" + "\n".join(rows)
    )


def _cells(one: "Score") -> str:
    return f"{_cell(one.recall)} | {_cell(one.mrr)}"


def _cell(one: "Interval", sign: str = "") -> str:
    return f"{one.value:{sign}.3f} ({one.low:{sign}.3f} to {one.high:{sign}.3f})"


def _training(learned: "Learned", params: RetrieverParams) -> str:
    pairs, training = learned.pairs, learned.training
    kind = {
        "questions": "questions with a passage that holds the answer",
        "spans": "sentences with the rest of their passage",
    }[params.pairs]
    feedback = f", {pairs.feedback} of them reviewed feedback" if pairs.feedback else ""
    return (
        f"Learned in {training.steps} steps of {params.batch_pairs} pairs, rank {params.rank}: "
        f"{pairs.learned} {kind}{feedback}, and {pairs.negatives} passages that BM25 ranks high. "
        f"Of the passages beside a question's own, {pairs.masked:.2%} hold what it asks as well, "
        "and count as no negatives. "
        f"The loss on {pairs.held_out} pairs of other groups was "
        f"{training.initial_validation_loss:.3f} before and {training.best_validation_loss:.3f} "
        "at its best (nats a question)."
    )
