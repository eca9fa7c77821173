"""Scores of an assistant's turn that may call tools: by name and arguments, or by its words."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tasks.records.text import text_sha256
from tasks.records.tool_text import Call, read_said, unoffered
from tasks.scoring.answer_scores import token_f1
from tasks.scoring.identity import SCORING_VERSION
from tasks.scoring.json_values import same_json

# Raise it with every change by which the same turn gets another score.
CALL_SCORING_VERSION = 1


@dataclass(frozen=True)
class CallScores:
    """One turn; scores are in [0, 1].

    `call_match`: 1 where its calls are the reference's, by name and arguments, whatever their
    order; `name_match`: by name alone. Both are None where the reference calls nothing. `words_f1`:
    token F1 of its words, None where the reference calls. `turn_score`: `call_match`, or
    `words_f1`, which is 0 where the turn calls something. `calls`: how many it tries to make, of
    which `broken_calls` are no JSON object with a name and arguments and `unoffered_calls` are of
    no tool that it is offered.
    """

    turn_score: float
    call_match: float | None
    name_match: float | None
    words_f1: float | None
    calls: int
    broken_calls: int
    unoffered_calls: int


def score_calls(output: str, reference: str, names: Collection[str]) -> CallScores:
    """Return the scores of an assistant's turn; `names` are the tools that it is offered."""
    said, wanted = read_said(output), read_said(reference)
    counts = {
        "calls": len(said.calls) + len(said.broken),
        "broken_calls": len(said.broken),
        "unoffered_calls": len(unoffered(said.calls, names)),
    }
    if wanted.calls:
        match = float(not said.broken and _same(said.calls, wanted.calls, same_call))
        named = float(_same(said.calls, wanted.calls, lambda one, other: one.name == other.name))
        return CallScores(match, match, named, None, **counts)
    words = 0.0 if said.has_call else token_f1(said.words, wanted.words)
    return CallScores(words, None, None, words, **counts)


def turn_score(output: str, reference: str) -> float:
    """Return the score of a turn that decides."""
    return score_calls(output, reference, ()).turn_score


def same_call(one: Call, other: Call) -> bool:
    """Return whether two calls are the same, by name and arguments."""
    return one.name == other.name and same_json(dict(one.arguments), dict(other.arguments))


def _same(
    found: Sequence[Call], wanted: Sequence[Call], are_same: Callable[[Call, Call], bool]
) -> bool:
    """Return whether both hold the same calls, in any order."""
    left = list(wanted)
    for call in found:
        place = next((at for at, one in enumerate(left) if are_same(call, one)), None)
        if place is None:
            return False
        left.pop(place)
    return not left


def call_scoring_sha256() -> str:
    """Return the hash of this scoring, which counts the tokens of words as those of answers: equal
    where the same turn gets the same scores.
    """
    return text_sha256(f"call scoring version {CALL_SCORING_VERSION}, {SCORING_VERSION}")
