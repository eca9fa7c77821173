"""Task summarize in tokenization: limits that fit its texts, and what is told of its summaries."""

from collections.abc import Iterable, Mapping, Sequence

from tasks.records.schema import Record
from tasks.stage.errors import GateError
from tasks.task_types.summarize import longer_than_sources
from tasks.tokenization.params import Params
from tasks.tokenization.training_examples import EncodedSplit
from tasks.tokenization.usability import KEPT_SHARE, MOST_NEW_TOKENS, MOST_TOKENS, enough

_SHOWN = 20


def limits_error(encoded: Mapping[str, EncodedSplit], params: Params) -> GateError | None:
    """Return why texts and summaries do not fit, with both limits that let nearly all of them; None
    where params let enough of them.

    Texts are much longer than questions, so both limits are often too low, and are told at once.
    """
    settings = params.tokenization
    lengths = [n for found in encoded.values() for n in found.lengths.values()]
    summaries = [n for found in encoded.values() for n in found.answers.values()]
    limits = (
        _Limit(
            "tokenization.max_tokens", settings.max_tokens, settings.max_unusable_share,
            lengths, "texts with their summaries", MOST_TOKENS,
        ),
        _Limit(
            "prompting.max_new_tokens", params.prompting.max_new_tokens,
            settings.max_long_answer_share, summaries, "summaries", MOST_NEW_TOKENS,
        ),
    )  # fmt: skip
    broken = [limit for limit in limits if limit.is_broken]
    if not broken:
        return None
    changes = " ".join(f"--set {one.name}={one.fitting}" for one in broken)
    too_much = [one for one in broken if one.fitting == one.largest]
    cut = "; what is longer still has to be cut in the source" if too_much else ""
    return GateError(
        f"{'; '.join(one.told for one in broken)}. A text that does not fit is not learned from, "
        "and a summary that does not fit is cut in its middle, in evaluation and in serving",
        f"`{changes}` lets {KEPT_SHARE:.0%} of them be whole (longer ones take more memory and "
        f"time), or shorten them in the source{cut}",
    )


class _Limit:
    """A limit in tokens: its param, the share that may be above it, and how long the data are."""

    def __init__(
        self, name: str, value: int, share: float, lengths: Iterable[int], what: str, largest: int
    ) -> None:
        ordered = sorted(lengths)
        above = sum(length > value for length in ordered)
        self.name, self.largest = name, largest
        self.is_broken = above > share * len(ordered)
        self.fitting = min(enough(ordered), largest) if ordered else value
        self.told = (
            f"{above} of {len(ordered)} {what} are longer than {name} ({value}); the longest has "
            f"{ordered[-1] if ordered else 0} tokens, expected at most {share:.0%} above it"
        )


def summary_counts(splits: Mapping[str, Sequence[Record]]) -> dict[str, object]:
    """Return how many summaries are longer than their text, by split, and some of them by id."""
    found = {split: longer_than_sources(records) for split, records in splits.items()}
    return {
        **{f"longer_than_text_{split}": len(names) for split, names in found.items()},
        "longer_than_text": [name for names in found.values() for name in names][:_SHOWN],
    }


def summaries_line(found: Mapping[str, object]) -> str:
    """Return it in a sentence."""
    names = found["longer_than_text"]
    assert isinstance(names, list)
    counts = ", ".join(
        f"{found[f'longer_than_text_{split}']} of {split}"
        for split in ("train", "validation", "test")
    )
    shown = f" Such as {', '.join(names[:3])}." if names else ""
    return f"Summaries that have more characters than their text: {counts}.{shown}"
