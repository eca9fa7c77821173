"""Every night comes once, at both changes of the clock and in every zone: of Prefect's schedule.

No clock is waited for: the schedule is asked from every ten minutes of four days, as the scheduler
asks it again and again.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

# A day before a change of the clock, by zone.
CHANGES = [
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/New_York", "2026-03-07"),
    ("America/New_York", "2026-10-31"),
    ("America/Santiago", "2026-09-05"),  # at midnight, which one day does not have
    ("America/Santiago", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),  # by half an hour
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Etc/UTC", "2026-03-28"),
    ("Asia/Seoul", "2026-10-24"),
]


async def starts(schedule: CronSchedule, begin: datetime) -> list[datetime]:
    """Every start that the schedule names, whenever within four days it is asked."""
    found = set()
    for minutes in range(5, 4 * 24 * 60, 10):
        found |= set(await schedule.get_dates(n=1, start=begin + timedelta(minutes=minutes)))
    return sorted(date.astimezone(UTC) for date in found)


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 0 * * *", "30 1 * * *", "0 3 * * *"])
@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_each_day_has_one_night_at_a_change_of_the_clock(zone: str, day: str, cron: str) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1)
    found = asyncio.run(starts(CronSchedule(cron=cron, timezone=zone), begin))
    hours = [(after - before).total_seconds() / 3600 for before, after in pairwise(found)]
    assert len(found) >= 4
    assert all(23 <= passed <= 25 for passed in hours)
    changed = [passed for passed in hours if passed != 24]
    assert len(changed) == (0 if zone in ("Etc/UTC", "Asia/Seoul") else 1)


def test_the_schedule_of_the_project_names_its_zone() -> None:
    deployments = yaml.safe_load(Path("prefect.yaml").read_text("utf-8"))["deployments"]
    [schedule] = [entry for one in deployments for entry in one.get("schedules", [])]
    assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
