"""The set's figures: the columns that the rules of set.yaml speak of, and why one is missing."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.records.schema import own_slice, slice_source
from tasks.records.withdrawals import IntakeWithdrawal
from tasks.stage.errors import DataError
from tasks.validation.profile import VERSION, Histogram, Profile
from tasks.validation.raw_rows import INTAKE_FILE, bring_back, several_sources

REFERENCE_FILE = "reference.json"

SET_FIGURES = (
    "records",  # accepted
    "documents",
    "record_ratio",  # accepted now over accepted before
    "document_ratio",
    "source_age_days",  # from the source's last update to the newest intake
    "slices",
    "largest_slice_share",  # of the records; where there are slices
    "smallest_slice_share",
    "slice_distance",  # from the reference: total variation
    "latin_share",  # of the letters of all records
    "hangul_share",
    "han_share",
    "kana_share",
    "other_script_share",
    "script_distance",  # from the reference: total variation
    "question_length_distance",  # from the reference: Jensen-Shannon
    "answer_length_distance",
    "document_length_distance",
    "vocabulary_distance",  # from the reference: Jensen-Shannon
    "embedding_distance",  # from the reference: one minus the cosine of the means
)


class _IntakeNote(BaseModel):
    """What validation needs of `intake.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    when: datetime
    source_updated: datetime | None = None
    unmet: dict[str, list[str]] = {}


@dataclass(frozen=True)
class SetFigures:
    """The figures of a set; one that can't be had is None, and `reasons` says why."""

    values: dict[str, float | None]
    reasons: dict[str, str]


@dataclass(frozen=True)
class Reference:
    """The profile of what was accepted before; None, and the reason why there is none."""

    profile: Profile | None
    reason: str

    @classmethod
    def read(cls, intake: Path, withdrawn: Iterable[IntakeWithdrawal]) -> "Reference":
        """Return the reference that an intake carries.

        What was accepted together with rows that were `withdrawn` since is none to compare with.

        Raises:
            DataError: it calls itself a profile of this version and is none.
        """
        path = intake / REFERENCE_FILE
        earlier = [item for item in withdrawn if item.intake < intake.name]
        back = [item for item in earlier if item.covers(intake.name) or not path.exists()]
        if back:
            return cls(
                None,
                f"the rows accepted before {intake.name} held intake {back[-1].intake}, which was "
                f"withdrawn since ({back[-1].reason}): nothing is left to compare with",
            )
        if not path.exists():
            return cls(None, f"{intake.name} has no {REFERENCE_FILE}: nothing was accepted before")
        try:
            content = json.loads(path.read_bytes())
            version = content.get("version") if isinstance(content, dict) else None
            if version != VERSION:
                reason = f"{intake.name}/{REFERENCE_FILE} has version {version}, not {VERSION}"
                return cls(None, f"{reason}: it was written by another Nightloom")
            return cls(Profile.model_validate(content), "")
        except (ValueError, ValidationError) as error:
            raise DataError(
                f"{path} is no profile of accepted data: {' '.join(str(error).split())[:400]}",
                bring_back(intake),
            ) from None


def set_figures(profile: Profile, reference: Reference, newest: Path) -> SetFigures:
    """Return the figures of a set; drift and volume compare with the reference."""
    reasons: dict[str, str] = {}
    values: dict[str, float | None] = dict.fromkeys(SET_FIGURES)
    values |= {"records": profile.records, "documents": profile.documents}
    values["slices"] = len(profile.slices)
    values |= {
        name: profile.scripts.get(name.removesuffix("_share").removesuffix("_script"))
        for name in SET_FIGURES
        if name.endswith("_share") and "slice" not in name
    }
    if len(profile.slices) > 1:
        values["largest_slice_share"] = max(profile.slices.values())
        values["smallest_slice_share"] = min(profile.slices.values())
    else:
        reason = "the records have one slice alone"
        reasons |= dict.fromkeys(("largest_slice_share", "smallest_slice_share"), reason)
    values["source_age_days"], reasons["source_age_days"] = _source_age(newest)
    compared, missing = _comparison(profile, reference, several_sources(newest))
    values, reasons = values | compared, reasons | missing
    for name in ("latin_share", "hangul_share", "han_share", "kana_share", "other_script_share"):
        reasons[name] = "the records hold no letters"
    return SetFigures(values, {k: v for k, v in reasons.items() if values[k] is None})


def taken_in(intake: Path) -> str:
    """Return when an intake was taken in, as an ISO time; its name where it does not say so."""
    note = _note(intake)
    return intake.name if note is None else _aware(note.when).isoformat(timespec="seconds")


def unmet_columns(intake: Path) -> dict[str, list[str]]:
    """Return the columns that params mapped and the source had not, by kind."""
    note = _note(intake)
    return {} if note is None else {kind: names for kind, names in note.unmet.items() if names}


def _note(intake: Path) -> _IntakeNote | None:
    path = intake / INTAKE_FILE
    if not path.exists():
        return None
    try:
        return _IntakeNote.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path} does not say when it was taken in: {' '.join(str(error).split())[:400]}",
            bring_back(intake),
        ) from None


def _source_age(intake: Path) -> tuple[float | None, str]:
    note = _note(intake)
    if note is None:
        return None, f"{intake.name} has no {INTAKE_FILE}"
    if note.source_updated is None:
        return None, f"the source of {intake.name} does not say when it was updated"
    age = _aware(note.when) - _aware(note.source_updated)
    return round(age.total_seconds() / 86400, 4), ""


def _aware(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _comparison(
    profile: Profile, reference: Reference, sources: Collection[str]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the figures that compare with the reference, and why some can't.

    `sources` are the names of the newest night's sources, where it had several.
    """
    before = reference.profile
    names = [name for name in SET_FIGURES if name.endswith(("_ratio", "_distance"))]
    if before is None:
        return {}, dict.fromkeys(names, reference.reason)
    values: dict[str, float | None] = {
        "record_ratio": _ratio(profile.records, before.records),
        "document_ratio": _ratio(profile.documents, before.documents),
        "slice_distance": total_variation(_comparable(profile, before, sources), before.slices),
        "script_distance": total_variation(profile.scripts, before.scripts),
        "vocabulary_distance": _words_distance(profile, before),
    }
    for name, now in profile.lengths.items():
        values[f"{name}_length_distance"] = _lengths_distance(now, before.lengths[name])
    reasons = dict.fromkeys(names, "one of the two sets has none")
    values["embedding_distance"], reasons["embedding_distance"] = _embedding(profile, before)
    return values, reasons


def _comparable(profile: Profile, before: Profile, sources: Collection[str]) -> dict[str, float]:
    """Return the shares of a set's slices under the names that the reference has for them.

    A second source puts its name before the slices of the first: that alone is no change.
    """
    if not sources or any(slice_source(name) in sources for name in before.slices):
        return profile.slices
    own: dict[str, float] = {}
    for name, share in profile.slices.items():
        own[own_slice(name)] = own.get(own_slice(name), 0.0) + share
    return own


def _ratio(now: int, before: int) -> float | None:
    return round(now / before, 6) if before else None


def total_variation(now: Mapping[str, float], before: Mapping[str, float]) -> float | None:
    """Return half the sum of the absolute differences of two distributions, in [0, 1], or None."""
    if not now or not before:
        return None
    names = now.keys() | before.keys()
    distance = sum(abs(now.get(name, 0) - before.get(name, 0)) for name in sorted(names)) / 2
    return round(distance, 6)


def jensen_shannon(now: Sequence[float], before: Sequence[float]) -> float:
    """Return the Jensen-Shannon distance of two distributions to base 2, in [0, 1]."""
    p, q = np.asarray(now, np.float64), np.asarray(before, np.float64)
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = sum(
        float((side[side > 0] * np.log2(side[side > 0] / middle[side > 0])).sum()) / 2
        for side in (p, q)
    )
    return round(float(np.sqrt(max(divergence, 0.0))), 6)


def _lengths_distance(now: Histogram, before: Histogram) -> float | None:
    if not sum(now.counts) or not sum(before.counts):
        return None
    bins = max(len(now.counts), len(before.counts))
    padded = [side.counts + [0] * (bins - len(side.counts)) for side in (now, before)]
    return jensen_shannon(*padded)


def _words_distance(profile: Profile, before: Profile) -> float | None:
    """Return the distance of how often words occur; words outside both lists count as one."""
    now, then = profile.vocabulary.terms, before.vocabulary.terms
    if not now or not then:
        return None
    names = sorted(now.keys() | then.keys())
    sides = [[side.get(name, 0.0) for name in names] for side in (now, then)]
    return jensen_shannon(*([*side, max(1 - sum(side), 0.0)] for side in sides))


def _embedding(profile: Profile, before: Profile) -> tuple[float | None, str]:
    now, then = profile.embedding, before.embedding
    if now is None:
        return None, "validation.embedding_rows is 0: nothing was embedded"
    if then is None:
        return None, "what was accepted before was not embedded"
    if now.embedder != then.embedder:
        return None, (
            f"the reference was embedded by {then.embedder[:12]}, this set by {now.embedder[:12]}: "
            "vectors of two embedders can't be compared"
        )
    mean, old = np.asarray(now.mean), np.asarray(then.mean)
    cosine = float(mean @ old / (np.linalg.norm(mean) * np.linalg.norm(old)))
    return round(1 - cosine, 6), ""


def as_frame_row(figures: SetFigures) -> dict[str, Any]:
    """Return the figures as the one row that GX sees."""
    return {name: [float("nan") if x is None else x] for name, x in figures.values.items()}
