"""Limits that fit the data of a task whose texts are long: both are told at once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.stage.errors import GateError
from tasks.tokenization.params import Params
from tasks.tokenization.training_examples import EncodedSplit
from tasks.tokenization.usability import KEPT_SHARE, MOST_NEW_TOKENS, MOST_TOKENS, enough


@dataclass(frozen=True)
class Words:
    """How a task calls what an example holds, what is said, and one of each."""

    whole: str
    said: str
    one_whole: str
    one_said: str


def limits_error(
    encoded: Mapping[str, EncodedSplit], params: Params, words: Words
) -> GateError | None:
    """Return why examples do not fit, with both limits that let nearly all of them; None where
    params let enough of them.

    They are much longer than short answers, so both limits are often too low.
    """
    settings = params.tokenization
    lengths = [n for found in encoded.values() for n in found.lengths.values()]
    answers = [n for found in encoded.values() for n in found.answers.values()]
    limits = (
        _Limit(
            "tokenization.max_tokens", settings.max_tokens, settings.max_unusable_share,
            lengths, words.whole, MOST_TOKENS,
        ),
        _Limit(
            "prompting.max_new_tokens", params.prompting.max_new_tokens,
            settings.max_long_answer_share, answers, words.said, MOST_NEW_TOKENS,
        ),
    )  # fmt: skip
    broken = [limit for limit in limits if limit.is_broken]
    if not broken:
        return None
    changes = " ".join(f"--set {one.name}={one.fitting}" for one in broken)
    too_much = [one for one in broken if one.fitting == one.largest]
    cut = "; what is longer still has to be cut in the source" if too_much else ""
    return GateError(
        f"{'; '.join(one.told for one in broken)}. {words.one_whole} that does not fit is not "
        f"learned from, and {words.one_said} that does not fit is cut in its middle, in evaluation "
        "and in serving",
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
