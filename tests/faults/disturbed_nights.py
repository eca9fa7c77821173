"""One fault from its night to the next that goes well, what it cost, and the table of all."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.run_state import NightState
from tests.builders.clones import BuiltClone
from tests.faults.night_faults import (
    ANY,
    BEFORE,
    STAGES,
    Fault,
    new_bundle,
    strike,
)
from tests.faults.night_records import OPEN, ORPHAN, STUCK, UNTOLD, WRONG, Kept, Problem, problems
from tests.faults.night_site import GOOD, NotInTimeError, Site, wait_for

_BEGIN_SECONDS = 240.0
_AGAIN_SECONDS = 45.0  # that the night after one that was cut short has to be asked for
# Of a stage's time, within which it is struck: another day it may be faster.
_STRUCK_SECONDS = 8.0
_FINAL = ("registering", "judging", "done")


@dataclass(frozen=True)
class Usual:
    """Seconds of undisturbed nights: one with nothing new, a release more, and each stage's."""

    nothing: float
    release: float
    stages: Mapping[str, float]

    def of(self, fault: Fault) -> float:
        """What the night of a fault takes where nothing is done to it."""
        if fault.step == ANY:
            return self.nothing + self.stages[_ANY_STAGE]
        if fault.step in STAGES:
            return self.nothing + self.stages[fault.step]
        return self.nothing + self.stages["packaging"] + self.release

    def until(self, fault: Fault) -> float:
        """How long after the step's beginning a fault strikes."""
        if fault.step == ANY:
            return self.nothing * fault.share
        return min(_STRUCK_SECONDS, self.stages.get(fault.step, 2.0)) * fault.share


_ANY_STAGE = "finetuning"


def measure(site: Site, built: BuiltClone, *, whole: bool) -> Usual:
    """What undisturbed nights take; without `whole` no night is run to know it of all but stages.

    The bytes of their outs are those of the night that the checkout was copied after.
    """
    stages = {entry["name"]: float(entry["seconds"]) for entry in built.night[1]["stages"]}
    if not whole:
        return Usual(math.nan, math.nan, stages)
    before = site.outs()
    nothing = _undisturbed(site)
    new_bundle(site)
    released = _undisturbed(site) - nothing - stages["packaging"]
    assert site.outs() == before
    return Usual(nothing, max(0.0, released), stages)


def _undisturbed(site: Site) -> float:
    """Run a night, which must go well; its seconds."""
    begun = datetime.now(UTC)
    night = site.ended(site.start_night())
    assert night.verdict in GOOD, night.headline()
    assert night.ended is not None
    return (night.ended - begun).total_seconds()


@dataclass(frozen=True)
class Outcome:
    """How a fault came out: in which step it struck, and how nights went on from there.

    `lost` are the seconds beyond an undisturbed night's.
    """

    fault: Fault
    struck: str
    verdicts: tuple[str, ...]
    by_itself: bool
    lost: float
    problems: tuple[Problem, ...]


def disturb(site: Site, fault: Fault, usual: Usual) -> Outcome:
    """Run a night with a fault, and all that follows until one goes well."""
    before = Kept.of(site)
    _ask_for_work(site, fault)
    if fault.is_between:
        BEFORE[fault.kind](site, fault)
    begun = datetime.now(UTC)
    name, struck, told = site.start_night(), "before", []
    if not fault.is_between:
        struck = _wait_for_moment(site, name, fault, usual)
        strike(site, site.night(name), fault)
        told = _living_after(site)
    nights, by_itself, more = _follow(site, name)
    told += more
    if fault.kind.endswith(" changed") and not _ran_again(site, name, nights[-1], fault):
        text = f"{fault.step} is recorded as made of what was changed while it ran"
        told.append(Problem(WRONG, text))
    ended = nights[-1].ended or datetime.now(UTC)
    lost = (ended - begun).total_seconds() - usual.of(fault)
    verdicts = tuple(str(night.verdict) for night in nights)
    told += problems(site, before)
    return Outcome(fault, struck, verdicts, by_itself, lost, tuple(told))


def _ask_for_work(site: Site, fault: Fault) -> None:
    """Let the next night run the stage of the fault, or the whole of a release."""
    if fault.step == ANY:
        site.edit(_ANY_STAGE)
    elif fault.step in STAGES:
        site.edit(fault.step)
    else:
        new_bundle(site)


def _wait_for_moment(site: Site, name: str, fault: Fault, usual: Usual) -> str:
    """Wait until the fault is due; the step in which the night is then."""
    if fault.step != ANY:

        def has_come() -> bool:
            night = site.night(name)
            steps = _FINAL if fault.step == "judging" else (fault.step,)
            return night is not None and (night.step in steps or night.verdict is not None)

        wait_for(has_come, _BEGIN_SECONDS, f"night {name} does not come to {fault.step}")
    time.sleep(usual.until(fault))
    night = site.night(name)
    return "not begun" if night is None else night.step


def _living_after(site: Site) -> list[Problem]:
    """Start `up` again where it ended, once all that it had started has ended too."""
    if not site.up_has_ended:
        return []
    told = [Problem(ORPHAN, text) for text in site.orphans()]
    site.start_up()
    return told


def _follow(site: Site, name: str) -> tuple[list[NightState], bool, list[Problem]]:
    """Follow a night until one goes well: that which is run by itself, or one that we start.

    The nights, whether the last began by itself, and why they are more than two.
    """
    nights, by_itself = [site.ended(name)], True
    while nights[-1].verdict not in GOOD and len(nights) < 4:
        following = _again(site, nights[-1])
        by_itself = following is not None
        nights.append(site.ended(following or site.start_night()))
    if nights[-1].verdict in GOOD and len(nights) <= 2:
        return nights, by_itself, []
    why = "; ".join(f"{night.verdict}: {night.headline()}" for night in nights)
    return nights, by_itself, [Problem(STUCK, why)]


def _again(site: Site, night: NightState) -> str | None:
    """The night that runs another again by itself, None if none does."""

    def found() -> str | None:
        now = site.night(night.night)
        return None if now is None else now.again

    try:
        cut_short = night.verdict in ("crashed", "cancelled")
        seconds = _AGAIN_SECONDS if cut_short else 3.0
        wait_for(found, seconds, "it is not run again")
    except NotInTimeError:
        return None
    return found()


def _ran_again(site: Site, name: str, last: NightState, fault: Fault) -> bool:
    """Whether the stage ran in a night that began after it was changed."""
    later = [night for night in site.nights() if name < night.night <= last.night]
    return any(
        entry.name == fault.step and entry.state == "executed"
        for night in later
        for entry in night.stages
    )


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """A line a fault, and one of all."""
    found = list(outcomes)
    counts = Counter(kind for one in found for kind in {item.kind for item in one.problems})
    recovered = sum(not one.problems for one in found)
    lines = [_line(one) for one in sorted(found, key=lambda one: str(one.fault))]
    head = f"{'fault':<34} {'the stage that had to run':<25} {'struck in':<25} {'':<7} {'next':<10}"
    told = ", ".join(f"{counts[kind]} {kind}" for kind in (WRONG, ORPHAN, OPEN, UNTOLD, STUCK))
    seconds = sorted(one.lost for one in found)
    middle = seconds[len(seconds) // 2] if seconds else 0.0
    last = f"{len(found)} faults on whole nights: {recovered} recovered; {told}; "
    return [f"{head}{'lost':>6}", *lines, f"{last}{middle:.0f} s lost (median)"]


def _line(one: Outcome) -> str:
    how = "by itself" if one.by_itself else "next"
    state = "FAILED" if one.problems else "ok"
    return (
        f"{one.fault.kind:<34} {one.fault.step:<25} {one.struck:<25} {state:<7} {how:<10}"
        f"{one.lost:>6.0f} s  {', '.join(one.verdicts)}"
    )
