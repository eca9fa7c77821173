"""What indexing tells people: the report, and the warnings in it."""

from collections.abc import Mapping

from tasks.embedding.prompts import Prompts
from tasks.indexing.building import BuiltIndex
from tasks.indexing.weight_choice import OTHER, Half, WeightChoice
from tasks.statistics.bootstrap import Interval

_NAMES: Mapping[Half, str] = {"lexical": "BM25", "dense": "dense search"}
_REASONS = {
    "usual": "They are the usual ones of params: no others are better by their interval.",
    "better": "They are the best of those tried, and by their interval better than the usual "
    "{usual}.",
    "noise": "A half that alone finds next to nothing was left out; the usual weights are {usual}.",
    "too_few": "They are the usual ones of params: {questions} questions are too few to choose by.",
    "fixed": "Params choose them.",
}


def report(built: BuiltIndex, tokens: int, warnings: list[str]) -> str:
    """Return the page in Markdown; `tokens` are those that a passage takes at most."""
    settings = built.index.settings
    if not settings.passages:
        return "# Index\n\nThere are no documents: questions are answered without passages.\n"
    ways = {
        "lexical": f"BM25, weighted {settings.lexical_weight:g}",
        "dense": f"the cosine of {built.index.dense.dimension}-dimensional vectors, weighted "
        f"{settings.dense_weight:g}",
    }
    counted = {"lexical": settings.lexical_weight, "dense": settings.dense_weight}
    used = [text for half, text in ways.items() if counted[half] > 0]
    parts = [
        f"{settings.documents} documents make {settings.passages} passages of at most "
        f"{settings.passage_words} words and {tokens} tokens of the base, neighbours sharing at "
        f"most {settings.passage_overlap_words} words. They are searched by {' and by '.join(used)}"
        f"; the best {settings.candidates} of each are fused by reciprocal rank (k = "
        f"{settings.rank_constant}). {_search(built)}",
        _weights(built.choice),
        *(f"**{warning}**" for warning in warnings),
    ]
    return "\n\n".join(["# Index", *filter(None, parts)]) + "\n"


def _search(built: BuiltIndex) -> str:
    settings, recall = built.index.settings, built.recall
    said = "The dense search is exact."
    if not settings.needs_embedder:
        said = "No question is embedded: evaluation and serving load no embedder."
    elif recall is not None:
        said = (
            f"The dense search is approximate: a question looks into {recall.probes} of "
            f"{recall.clusters} clusters and finds {recall.share:.1%} of the {recall.depth} "
            f"passages that exact search finds (measured on {recall.questions} questions)."
        )
    if settings.reranker is not None:
        said += (
            f" The best {settings.reranker.passages} are read with the question by "
            f"`{settings.reranker.source}`, whose order counts."
        )
    return said


def _weights(choice: WeightChoice) -> str:
    """Return how the weights were chosen, with the table of what was measured."""
    reason = _REASONS[choice.reason].format(usual=choice.usual, questions=choice.questions)
    told = f"## Weights\n\nBM25's ranks and the dense ones count {choice.weights}. {reason}"
    if choice.fused is None:
        return told
    rows = [
        *((f"{_NAMES[half]} alone", _shown(found)) for half, found in choice.alone.items()),
        (f"both, {choice.weights}" if choice.adds else "as it is searched", _shown(choice.fused)),
    ]
    gains = [
        (f"{weights} instead of {choice.usual}", _signed(gain))
        for weights, gain in choice.gains.items()
    ]
    added = [(f"what {_NAMES[half]} adds", _signed(found)) for half, found in choice.adds.items()]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows + added + gains)
    return (
        f"{told} Mean reciprocal rank of the first passage of a right document, among the first "
        f"10, on {choice.questions} validation questions, before any reranking; differences are "
        "paired by question, and their intervals allow for the number of weights tried:\n\n"
        f"| | MRR (interval) |\n|---|---|\n{table}"
    )


def _shown(found: Interval) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _signed(found: Interval) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def find_warnings(built: BuiltIndex, lacking: str | None) -> list[str]:
    """Return what people should know: a half of no use, cut passages, `lacking` prompts."""
    found = [_off(built.choice, half) for half in built.choice.off()]
    found += [_idle(built.choice, half) for half in built.choice.idle()]
    if built.cut:
        found.append(
            f"The embedder sees the beginning alone of {built.cut} passages, which have more "
            "tokens than it takes, since their documents' titles take half of that: their ends are "
            "found by BM25 only. Shorten these titles."
        )
    return found + ([] if lacking is None else [lacking])


def _off(choice: WeightChoice, half: Half) -> str:
    other = _NAMES[OTHER[half]]
    remedy = (
        "Name an embedder that knows the data's language in params/models.yaml (for 16 languages "
        "`embedded:use-multilingual-v3`), or spare its cost with indexing.dense_weight 0 and "
        "indexing.choice.measured false."
    )
    return (
        f"The {half} half is off: alone {_NAMES[half]} has an MRR of {choice.alone[half].value:.3f}"
        f", {other} of {choice.alone[OTHER[half]].value:.3f}, and nothing is gained by both."
        + (f" {remedy}" if half == "dense" else "")
    )


def _idle(choice: WeightChoice, half: Half) -> str:
    other = OTHER[half]
    assert choice.fused is not None
    return (
        f"The {half} half adds nothing that shows: {_NAMES[other]} alone has an MRR of "
        f"{choice.alone[other].value:.3f}, both have {choice.fused.value:.3f} (what it adds is "
        f"{_signed(choice.adds[half])}, on {choice.questions} questions)."
    )


def numbers(built: BuiltIndex, prompts: Prompts | None, lacking: str | None) -> dict[str, object]:
    """Return the report as `metrics.json` holds it."""
    settings = built.index.settings
    return {
        "documents": settings.documents,
        "passages": settings.passages,
        "passages_cut": built.cut,
        "dimension": built.index.dense.dimension,
        "dense_search": settings.dense_search,
        "dense_recall": settings.dense_recall,
        "reranked_passages": 0 if settings.reranker is None else settings.reranker.passages,
        "weights": built.choice.numbers(),
        "idle_halves": len(built.choice.idle()) + len(built.choice.off()),
        "query_prompt": "" if prompts is None else prompts.query,
        "passage_prompt": "" if prompts is None else prompts.passage,
        "lacks_prompts": lacking is not None,
    }
