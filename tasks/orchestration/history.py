"""The last nights on one page: a picture of the scores, and a table below it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from tasks.orchestration.night_figures import Score
from tasks.stage.pages import page_templates

# Whose scores are drawn, in which colour; the shapes differ too, for print and colour blindness.
DRAWN = {"adapter": "#1f77b4", "student": "#d95f02", "base": "#6b6b6b"}

_TEMPLATES = Path(__file__).parent / "templates"

# Of the picture, in its own units; a window of 400 pixels shows about one a pixel.
_WIDTH, _HEIGHT = 380, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 34


class PastNight(BaseModel):
    """One night as the history shows it; what its files do not say is null or missing.

    `champions` say by model which version was champion as the night ended; `minutes` are by stage.
    """

    night: str
    verdict: str
    verdicts: dict[str, str] = {}
    scores: dict[str, Score] = {}
    metric: str = "token_f1"
    mode: str = ""
    champions: dict[str, str] = {}
    rows: int | None = None
    quarantined: int | None = None
    minutes: dict[str, float] = {}
    total_minutes: float | None = None
    mlflow_run: str | None = None


@dataclass(frozen=True)
class _Point:
    """A score in the picture: its place, and the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    told: str


def render_history(nights: Sequence[PastNight]) -> str:
    """Return the page; the nights come newest first, and are drawn oldest first."""
    drawn = [night for night in reversed(nights) if night.scores]
    return (
        page_templates(_TEMPLATES)
        .get_template("history.html.jinja")
        .render(
            nights=nights,
            measured=drawn[-1] if drawn else None,
            lines={name: list(_points(drawn, name)) for name in DRAWN},
            colours=DRAWN,
            ticks=[(share / 4, _height(share / 4)) for share in range(5)],
            first=drawn[0].night[:10] if drawn else "",
            last=drawn[-1].night[:10] if drawn else "",
            stages=list(dict.fromkeys(stage for night in nights for stage in night.minutes)),
            size=(_WIDTH, _HEIGHT),
            frame=(_LEFT, _WIDTH - _RIGHT, _TOP, _HEIGHT - _BOTTOM),
        )
    )


def _points(nights: Sequence[PastNight], system: str) -> Iterator[_Point]:
    """Yield a system's scores, from left to right; nights without one leave their place empty."""
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(nights), 1)
    for place, night in enumerate(nights):
        score = night.scores.get(system)
        if score is not None:
            low = score.value if score.low is None else score.low
            high = score.value if score.high is None else score.high
            yield _Point(
                x=round(_LEFT + step * (place + 0.5) + _shift(system, step), 1),
                y=_height(score.value),
                low=_height(low),
                high=_height(high),
                told=f"{system}, {night.night}: {score}",
            )


def _shift(system: str, step: float) -> float:
    """Return how far a system's points stand beside the middle, lest intervals hide each other."""
    return (list(DRAWN).index(system) - 1) * min(step / 5, 4)


def _height(value: float) -> float:
    """Return where a score from 0 to 1 stands; metrics are shares, and others end at the frame."""
    share = min(max(value, 0.0), 1.0)
    return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def champion_names(aliases: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Return by model the version that `production` names, else `staging`, with the alias."""
    found = {}
    for model, names in aliases.items():
        alias = next((name for name in ("production", "staging") if name in names), None)
        if alias is not None:
            found[model] = f"{names[alias]} ({alias})"
    return found
