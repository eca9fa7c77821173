"""The answers that say that one does not know, in the language of the data and in others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def abstentions_for(
    language: str, usual: Sequence[str], by_language: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return how answers in a language abstain: in their own words first, else in the usual ones.

    The usual ones count in every language: a model may have learned them before. The first is the
    reference where only abstaining is right.
    """
    return _once([*by_language.get(language, ()), *usual])


def all_abstentions(params: Mapping[str, Any]) -> list[str]:
    """Return how answers abstain in any language, from what `params/evaluation.yaml` holds.

    Served answers are in any language, whatever the data's.
    """
    others = params.get("abstentions_in", {}).values()
    return _once([*params["abstentions"], *(one for listed in others for one in listed)])


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
