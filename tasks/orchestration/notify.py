"""Who is told how a night ended: params, the message, and its way to every channel at once."""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.orchestration.delivery import Delivery
from tasks.services.processes import ChildResult, child_environment, run_child
from tasks.stage.errors import without_password
from tasks.stage.params import StageParams

# How a night ends.
Verdict = Literal[
    "promoted",
    "partly_promoted",
    "refused",
    "unchanged",
    "failed",
    "timed_out",
    "cancelled",
    "crashed",
]
# What a channel can ask for: the verdicts of nights, and that there was none.
Event = Literal[Verdict, "no_verdict"]
# What every channel is told of, whatever it asks for.
Always = Literal["channel_failed", "test", "gave_up"]

PING = "ping"

# In capitals, so that a secret that is written in its place is refused, mostly.
VariableName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", max_length=60)]

_GRACE_SECONDS = 1.0
_LINE_CHARACTERS = 300  # of one line of a message; a chat shows the first few
_TEXT_CHARACTERS = 1500


class _Channel(StageParams):
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)
    verdicts: Literal["all"] | Annotated[list[Event], Field(min_length=1)]

    def hears(self, event: str) -> bool:
        """Return whether it is told of an event."""
        return self.verdicts == "all" or event in (*self.verdicts, *get_args(Always))


class CommandChannel(_Channel):
    """A command of this machine: the text on its stdin, the JSON body in its environment."""

    kind: Literal["command"]
    command: list[str] = Field(min_length=1, description="the program and its arguments")


class WebhookChannel(_Channel):
    """A POST of the JSON body."""

    kind: Literal["webhook"]
    url_variable: VariableName
    token_variable: VariableName | None = Field(description="its value is sent as Bearer")


class AppriseChannel(_Channel):
    """A service that apprise knows: mail, Slack, Teams and others."""

    kind: Literal["apprise"]
    url_variable: VariableName


Channel = CommandChannel | WebhookChannel | AppriseChannel


class NotifyParams(StageParams):
    """`params/notify.yaml`."""

    channels: list[Annotated[Channel, Field(discriminator="kind")]]
    ping_variable: VariableName | None = Field(description="a URL that is asked at every verdict")
    channel_seconds: float = Field(gt=0, le=60, description="after which a channel has failed")
    no_verdict_hours: float = Field(gt=0, le=8760, description="after which silence is told")

    @model_validator(mode="after")
    def _are_told_apart(self) -> "NotifyParams":
        names = [channel.name for channel in self.channels]
        if PING in names or len(set(names)) < len(names):
            raise ValueError(f"each channel needs a name of its own, and none may be called {PING}")
        return self

    def variables(self) -> dict[str, list[str]]:
        """Return the environment variables that each channel, and the ping, reads."""
        found = {channel.name: _variables(channel) for channel in self.channels}
        return found | ({PING: [self.ping_variable]} if self.ping_variable else {})


def _variables(channel: Channel) -> list[str]:
    names = [getattr(channel, f"{what}_variable", None) for what in ("url", "token")]
    return [name for name in names if name is not None]


class ModelNotice(BaseModel):
    """What became of one model."""

    model_config = ConfigDict(frozen=True)

    verdict: str
    headline: str
    version: int | None


class Notice(BaseModel):
    """What channels are told; as JSON it is the body that a webhook gets.

    `event` is a verdict, `no_verdict`, `channel_failed`, `gave_up` (`nightloom up` has) or `test`.
    `first_against` is the first rule that refused, with its number and bound, or what ended the
    night. `links` are title -> address; `log` is a file of `host`. Times are UTC.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    event: Event | Always
    headline: str
    time: datetime
    host: str
    checkout: str
    night: str | None = None
    models: dict[str, ModelNotice] = {}
    first_against: str | None = None
    what_to_do: str | None = None
    failed_channels: dict[str, str] = {}
    links: dict[str, str] = {}
    log: str | None = None

    @property
    def title(self) -> str:
        """Return the event and where it was, in a few words."""
        night = f" {self.night}" if self.night else ""
        return f"Nightloom{night}: {self.event.replace('_', ' ')} ({self.host})"

    @property
    def text(self) -> str:
        """Return what a chat shows below the title: plain, a thing a line."""
        lines = [
            self.headline,
            self.first_against,
            self.what_to_do and f"what to do: {self.what_to_do}",
            *(f"{name} was not reached: {why}" for name, why in self.failed_channels.items()),
            *(f"{title}: {link}" for title, link in self.links.items()),
            self.log and f"log: {self.log}",
        ]
        return "\n".join(line for line in lines if line)[:_TEXT_CHARACTERS]


def shown_line(text: str) -> str:
    """Return a text as one line that a message may hold: short, printable, without passwords."""
    printable = "".join(c if c.isprintable() else " " for c in without_password(text))
    line = " ".join(printable.split())
    return line if len(line) <= _LINE_CHARACTERS else f"{line[: _LINE_CHARACTERS - 3]}..."


def send(notice: Notice, params: NotifyParams, folder: Path) -> dict[str, str | None]:
    """Send a notice to the channels that hear of it, all at once; return why each failed, or None.

    Commands run in `folder`. Each channel is a process of its own, which its time limit ends. The
    ping is sent with verdicts and tests.
    """
    jobs: dict[str, Callable[[], str | None]] = {}
    for channel in params.channels:
        if channel.hears(notice.event) and channel.name not in notice.failed_channels:
            jobs[channel.name] = _job(channel, notice, params.channel_seconds, folder)
    if params.ping_variable and notice.event not in ("no_verdict", "channel_failed", "gave_up"):
        ping = _delivery("ping", params.ping_variable, None, notice)
        jobs[PING] = lambda: _deliver(ping, params.channel_seconds, folder)
    if not jobs:
        return {}
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = {name: pool.submit(job) for name, job in jobs.items()}
        return {name: future.result() for name, future in running.items()}


def send_and_tell(notice: Notice, params: NotifyParams, folder: Path) -> dict[str, str | None]:
    """Send a notice; tell the channels that work of those that do not. Return as `send` does."""
    outcomes = send(notice, params, folder)
    tell_failed(outcomes, notice, params, folder)
    return outcomes


def tell_failed(
    outcomes: Mapping[str, str | None], notice: Notice, params: NotifyParams, folder: Path
) -> None:
    """Tell every channel that has not failed of those that have."""
    failed = {name: why for name, why in outcomes.items() if why is not None}
    if failed:
        headline = f"{', '.join(failed)} was not told: {notice.headline}"
        update = {"event": "channel_failed", "headline": headline, "failed_channels": failed}
        send(notice.model_copy(update=update), params, folder)


def _job(
    channel: Channel, notice: Notice, limit_seconds: float, folder: Path
) -> Callable[[], str | None]:
    if isinstance(channel, CommandChannel):
        return lambda: _run(channel.command, notice, limit_seconds, folder)
    token = channel.token_variable if isinstance(channel, WebhookChannel) else None
    delivery = _delivery(channel.kind, channel.url_variable, token, notice)
    return lambda: _deliver(delivery, limit_seconds, folder)


def _delivery(
    kind: Literal["webhook", "apprise", "ping"],
    url_variable: str,
    token_variable: str | None,
    notice: Notice,
) -> Delivery:
    body = notice.model_dump(mode="json")
    return Delivery(kind, url_variable, token_variable, notice.title, notice.text, body)


def _run(command: Sequence[str], notice: Notice, limit_seconds: float, folder: Path) -> str | None:
    """Give a notice to a command; its output is not kept, since it may hold a secret."""
    environment = child_environment(online=True) | {
        "NIGHTLOOM_EVENT": notice.event,
        "NIGHTLOOM_NIGHT": notice.night or "",
        "NIGHTLOOM_TITLE": notice.title,
        "NIGHTLOOM_NOTICE": notice.model_dump_json(),
    }
    text = f"{notice.title}\n{notice.text}\n"
    child = _child(command, text, environment, limit_seconds, folder)
    if child.is_late:
        return _late(limit_seconds)
    if child.code == 0:
        return None
    return f"its command ended with exit code {child.code}; its output is not kept, run it by hand"


def _deliver(delivery: Delivery, limit_seconds: float, folder: Path) -> str | None:
    """Let a process of its own send a message; return what it says went wrong."""
    command = [sys.executable, "-m", "tasks.orchestration.delivery"]
    environment = child_environment(online=True)
    child = _child(command, delivery.as_json(), environment, limit_seconds, folder)
    if child.is_late:
        return _late(limit_seconds)
    try:
        answer = json.loads(child.lines[-1])
        return None if answer["error"] is None else str(answer["error"])
    except (IndexError, ValueError, TypeError, KeyError):
        return f"its process ended with exit code {child.code} and did not say why"


def _late(limit_seconds: float) -> str:
    return f"it was not done after {limit_seconds:g} s, the channel_seconds of params/notify.yaml"


def _child(
    command: Sequence[str],
    text: str,
    environment: Mapping[str, str],
    limit_seconds: float,
    folder: Path,
) -> ChildResult:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stdin:
        stdin.write(text)
        stdin.seek(0)
        return run_child(
            command,
            folder,
            environment=environment,
            stdin=stdin,
            grace_seconds=_GRACE_SECONDS,
            limit_seconds=limit_seconds,
        )
