"""A night whose process is killed is told: by the worker that ran it, or by the check."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.run_state import NightState, last_nights, night_file, read_night
from flows.servers import Services
from flows.shutdown import Keeper, living
from tests.builders.clones import nightloom
from tests.builders.listener import Listener, listener
from tests.builders.notified import VARIABLE, told, write_params
from tests.pipeline.test_closing import of_stages, ports, started, wait_for

pytestmark = [pytest.mark.night, pytest.mark.timeout(1500)]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with listener() as found:
        monkeypatch.setenv(VARIABLE, found.url())
        yield found


def running(clone: Path) -> NightState | None:
    """The night that runs a stage now."""
    nights = [night for night in last_nights(clone, 3) if night.verdict is None]
    return next((night for night in nights if night.stages), None)


def test_the_worker_tells_of_a_night_whose_process_is_killed_and_down_of_one_it_ends(
    clone: Path, hook: Listener
) -> None:
    write_params(clone)
    up = started(clone, "up", *ports(), "--preset", "tiny", "--cron", "* * * * *")
    try:
        wait_for(lambda: Services.read(clone), up, 400)
        wait_for(lambda: running(clone), up, 400)
        first = running(clone)
        assert first is not None
        psutil.Process(first.pid).send_signal(signal.SIGKILL)
        wait_for(lambda: ("crashed", first.night) in told(hook), up, 120)
        wait_for(lambda: read_night(night_file(clone, first.night)).again, up, 120)
        wait_for(lambda: running(clone), up, 400)
        second = running(clone)
        assert second is not None
        assert nightloom(clone, "down").returncode == 0
        assert told(hook) == [("crashed", first.night), ("cancelled", second.night)]
        assert str(hook.asked[1].json["links"]["Prefect"]).startswith("http://127.0.0.1")
    finally:
        up.kill()


def test_the_check_tells_of_a_night_that_was_killed_with_all_that_watched_it(
    clone: Path, hook: Listener
) -> None:
    write_params(clone)
    up = started(clone, "up", *ports(), "--preset", "tiny", "--cron", "* * * * *")
    try:
        wait_for(lambda: running(clone), up, 600)
        keeper = Keeper.last(clone)
        assert keeper is not None
        wait_for(lambda: of_stages(living(keeper)), up, 300)
        found = running(clone)
        assert found is not None
        for process in [psutil.Process(keeper.pid), *living(keeper)]:
            if process.is_running():
                process.kill()
        assert told(hook) == []
        for _ in range(2):
            done = nightloom(clone, "notify", "--check", "--json")
            assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["silent"] is False
        assert told(hook) == [("crashed", found.night)]
        status = nightloom(clone, "status")
        assert "crashed: told to hook" in status.stdout
    finally:
        up.kill()
