"""What `nightloom doctor` says of nights to come: who is told, when they start, if they do."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks.stage.errors import NightloomError


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it; the remedy is empty where all is well."""

    found: str
    remedy: str = ""


def notification(checkout: Path) -> Finding:
    """Look whether those whom params name can be told, and were."""
    from flows.endings import PARAMS, read_notify_params
    from flows.run_state import last_nights
    from flows.watch import read_watch

    try:
        params = read_notify_params(checkout)
    except NightloomError as error:
        return Finding(error.message, error.remedy)
    if not params.variables():
        return Finding(f"no channel in {PARAMS}: nobody is told how a night ends")
    unset = [
        f"{name} reads {variable}, which is not set"
        for name, variables in params.variables().items()
        for variable in variables
        if not os.environ.get(variable)
    ]
    if unset:
        return Finding(
            "; ".join(unset), "set it where `nightloom up` and `nightloom notify --check` start"
        )
    nights, watch = last_nights(checkout, 1), read_watch(checkout)
    told = dict(nights[0].told[-1].channels) if nights and nights[0].told else {}
    told |= watch.channels if watch else {}
    missed = [f"{name} was not told last: {why}" for name, why in told.items() if why]
    if missed:
        return Finding("; ".join(missed), "mend it, then `nightloom notify --test`")
    return Finding(f"{', '.join(params.variables())}; `nightloom notify --test` tries them")


def schedule(checkout: Path) -> Finding:
    """Look whether nights start by themselves, once each, and are taken by the worker."""
    from flows.servers import Services
    from tasks.orchestration.flow_runs import read_schedule

    if Services.read(checkout) is None:
        return Finding("`nightloom up` does not run: no night starts by itself")
    try:
        found = read_schedule("nightly")
    except Exception as error:  # noqa: BLE001  a server fails in as many ways
        return Finding(
            f"Prefect did not say when nights start: {error}", "nightloom down, then nightloom up"
        )
    if not found.schedules:
        return Finding(
            "no schedule is active: no night starts by itself",
            "turn it on at the deployment's page in Prefect, or start `nightloom up` again",
        )
    told = ", ".join(found.schedules)
    if found.late:
        return Finding(
            f"{told}; {found.late} runs are late: no worker takes them",
            "nightloom down, then nightloom up; .nightloom/logs/worker.log says why",
        )
    if len(found.schedules) > 1:
        return Finding(
            f"{told}: a night starts by each of them",
            "turn off all but one at the deployment's page in Prefect",
        )
    next_start = "none is planned yet" if found.next is None else f"{found.next:%Y-%m-%d %H:%M} UTC"
    return Finding(f"{told}; the next night: {next_start}")


def verdict_age(checkout: Path) -> Finding:
    """Look how old the last verdict is; too old is bad where nights are to start by themselves."""
    from flows.endings import read_notify_params
    from flows.servers import Services
    from flows.watch import hours_between, last_verdict, read_watch

    now = datetime.now(UTC)
    watch, last = read_watch(checkout), last_verdict(checkout, now)
    watched = "" if watch else "; nothing runs `nightloom notify --check`, so silence is not told"
    if last is None:
        return Finding(f"no night has come to a verdict here{watched}")
    hours = hours_between(last.time, now)
    found = f"{last.verdict}, {hours:.0f} h ago (night {last.night}){watched}"
    try:
        bound = read_notify_params(checkout).no_verdict_hours
    except NightloomError:
        return Finding(found)  # `notification` tells it
    expected = watch is not None or Services.read(checkout) is not None
    if expected and hours >= bound:
        return Finding(
            f"{found}; at most {bound:g} h, the no_verdict_hours of params/notify.yaml",
            "see `nightloom status`, .nightloom/logs/ and Prefect's page, or `nightloom run` now",
        )
    return Finding(found)
