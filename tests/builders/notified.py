"""A checkout whose endings reach a real webhook."""

from pathlib import Path
from typing import Any

import yaml

from tests.builders.listener import Listener

VARIABLE = "NIGHTLOOM_TEST_HOOK"
CHANNEL = {"name": "hook", "verdicts": "all", "kind": "webhook", "url_variable": VARIABLE,
           "token_variable": None}  # fmt: skip


def write_params(checkout: Path, *channels: dict[str, Any], **more: Any) -> None:
    """Let these channels be told, the webhook where none is given."""
    content = {
        "channels": list(channels or (CHANNEL,)),
        "ping_variable": None,
        "channel_seconds": 60.0,
        "no_verdict_hours": 26.0,
    }
    path = checkout / "params" / "notify.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content | more))


def told(hook: Listener) -> list[tuple[str, str | None]]:
    """What the webhook was told: events and the nights that they are of."""
    return [(asked.json["event"], asked.json["night"]) for asked in hook.asked]
