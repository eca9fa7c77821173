"""Faults on whole tiny nights under a real `nightloom up`: after each the next run finishes, every
record says how each night ended, it was told, nothing lives on, and the bytes are the same.

`up` runs on in one checkout from fault to fault, as on a server; each night has one stage to do
(tests/faults/night_site.py says how). Two faults by default; `make faults` makes all of the seeded
plan, and prints it and the table of how each came out.
"""

import os
from collections.abc import Iterator

import pytest

from tests.builders.clones import BuiltClone, made_once
from tests.faults.disturbed_nights import Outcome, Usual, disturb, measure, table
from tests.faults.night_faults import SEED, Fault, can_protect, plan
from tests.faults.night_site import Site

ALL = os.environ.get("NIGHTLOOM_FAULTS") == "all"
SHORT = [Fault("SIGKILL up", "finetuning", 0.5)]
FAULTS = plan() if ALL else SHORT
pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]

_OUTCOMES: list[Outcome] = []


class Sites:
    """The checkout in which faults are made: another one after a fault that did not come out."""

    def __init__(self, built: BuiltClone, factory: pytest.TempPathFactory) -> None:
        self._built, self._factory = built, factory
        self._site: Site | None = None
        self._usual: Usual | None = None

    def open(self) -> tuple[Site, Usual]:
        """The checkout with `up` running, and what its nights take."""
        if self._site is None:
            self._site = Site.make(self._built, self._factory.mktemp("site") / "checkout")
            self._site.start_up()
        if self._usual is None:
            self._usual = measure(self._site, self._built, whole=ALL)
        return self._site, self._usual

    def close(self) -> None:
        """End it; the next one is new."""
        if self._site is not None:
            self._site.stop()
            self._site = None


@pytest.fixture(scope="module")
def sites(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sites]:
    built = BuiltClone(made_once(tmp_path_factory, "built", BuiltClone.make))
    found = Sites(built, tmp_path_factory)
    say = request.config.pluginmanager.getplugin("capturemanager")
    with say.global_and_fixture_disabled():
        planned = (f"{fault} after {fault.share:.0%}" for fault in FAULTS)
        print(f"\nseed {SEED}:", *planned, sep="\n  ")
    try:
        yield found
    finally:
        found.close()
        with say.global_and_fixture_disabled():
            print("", *table(_OUTCOMES), sep="\n")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_the_night_after_a_fault_is_as_if_there_had_been_none(fault: Fault, sites: Sites) -> None:
    site, usual = sites.open()
    if fault.kind.startswith("read-only") and not can_protect(site.root):
        pytest.skip("this user can write what is write-protected")
    try:
        outcome = disturb(site, fault, usual)
        _OUTCOMES.append(outcome)
        assert outcome.problems == (), "\n".join(map(str, outcome.problems))
    except BaseException:
        sites.close()
        raise
