"""A notice reaches real channels whole and in time, by the right proxy, and tells no secret."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flows.run_state import VERDICTS
from tasks.orchestration.delivery import is_loopback
from tasks.orchestration.notify import (
    Event,
    ModelNotice,
    Notice,
    NotifyParams,
    Verdict,
    send,
    send_and_tell,
    shown_line,
)
from tasks.stage.errors import ConfigError
from tasks.stage.params import StageParams, load_params
from tests.builders.listener import Listener, listener

SECRET = "hunter2-비밀-Zx9"
KOREAN = "학생: 거부됨 (지연 시간); 어댑터: 스테이징으로 승격"


class Params(StageParams):
    notify: NotifyParams


def params(*channels: dict[str, Any], ping: str | None = None, seconds: float = 60.0) -> Any:
    return NotifyParams.model_validate(
        {
            "channels": [{"verdicts": "all", **channel} for channel in channels],
            "ping_variable": ping,
            "channel_seconds": seconds,
            "no_verdict_hours": 26.0,
        }
    )


def webhook(name: str, variable: str = "HOOK", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "webhook",
        "url_variable": variable,
        "token_variable": None,
    } | more


def command(name: str, *words: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "command", "command": list(words), **more}


def notice(event: Any = "refused", **more: Any) -> Notice:
    given = {
        "headline": KOREAN,
        "time": datetime(2026, 11, 29, 2, 30, tzinfo=UTC),
        "host": "gpu-1",
        "checkout": "/srv/nightloom",
        "night": "2026-11-29T023000Z",
        "models": {"student": ModelNotice(verdict="refused", headline="refused", version=4)},
        "first_against": "student: refused by latency: 1.62 times; at most 1.50 is asked for",
        "links": {"MLflow": "http://127.0.0.1:5000/#/experiments/1/runs/a"},
        "log": "/srv/nightloom/.nightloom/logs/night.log",
    }
    return Notice(event=event, **(given | more))


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with listener() as found:
        monkeypatch.setenv("HOOK", found.url(f"/{'token-Zx9'}"))
        yield found


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A proxy that the environment names in every spelling, with no exemption."""
    with listener() as found:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, found.url(""))
            monkeypatch.setenv(name.upper(), found.url(""))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield found


@pytest.mark.slow
def test_a_webhook_gets_the_documented_json_and_the_bearer_token(
    tmp_path: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    told = notice()
    assert send(told, params(webhook("chat", token_variable="TOKEN")), tmp_path) == {"chat": None}
    [asked] = hook.asked
    assert (asked.method, asked.path) == ("POST", "/token-Zx9")
    assert asked.headers["Authorization"] == "Bearer s3cret"
    assert KOREAN in asked.body.decode()
    assert Notice.model_validate_json(asked.body) == told
    guide = Path("docs/guides/notifications.md").read_text()
    [shown] = re.findall(r"```json\n(.*?)```", guide, re.S)
    assert list(json.loads(shown)) == list(asked.json)


@pytest.mark.slow
def test_apprise_sends_the_title_and_the_text(
    tmp_path: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS", hook.url("/apprise", scheme="json"))
    channel = {"name": "ops", "kind": "apprise", "url_variable": "OPS"}
    assert send(notice(), params(channel), tmp_path) == {"ops": None}
    [asked] = hook.asked
    assert asked.json["title"] == "Nightloom 2026-11-29T023000Z: refused (gpu-1)"
    lines = asked.json["message"].splitlines()
    assert lines[:2] == [
        KOREAN,
        "student: refused by latency: 1.62 times; at most 1.50 is asked for",
    ]
    assert lines[2:] == [
        "MLflow: http://127.0.0.1:5000/#/experiments/1/runs/a",
        "log: /srv/nightloom/.nightloom/logs/night.log",
    ]


@pytest.mark.slow
def test_a_command_gets_the_text_on_stdin_and_the_json_in_its_environment(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; pathlib.Path('told').write_bytes(sys.stdin.buffer.read());"
        "pathlib.Path('json').write_text(os.environ['NIGHTLOOM_NOTICE'], encoding='utf-8');"
        "print(os.environ['NIGHTLOOM_EVENT'])"
    )
    told = notice()
    found = send(told, params(command("wall", sys.executable, "-c", code)), tmp_path)
    assert found == {"wall": None}
    text = (tmp_path / "told").read_text(encoding="utf-8")
    assert text == f"{told.title}\n{told.text}\n"
    assert Notice.model_validate_json((tmp_path / "json").read_text(encoding="utf-8")) == told


@pytest.mark.parametrize("event", get_args(Event))
def test_each_channel_hears_the_verdicts_that_it_asks_for(event: Any) -> None:
    asked = params(
        command("one", "true", verdicts=[event]),
        command("others", "true", verdicts=[name for name in get_args(Event) if name != event]),
        command("every", "true"),
    )
    hearing = [channel.name for channel in asked.channels if channel.hears(event)]
    assert hearing == ["one", "every"]
    assert all(channel.hears("test") for channel in asked.channels)


def test_every_verdict_of_a_night_can_be_asked_for() -> None:
    assert {*VERDICTS, "no_verdict"} == set(get_args(Event))


@pytest.mark.slow
def test_channels_that_fail_or_hang_are_told_by_the_others_and_in_time(
    tmp_path: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    found = params(
        webhook("works", verdicts=["promoted"]),
        command("fails", "false"),
        command("missing", "/nonexistent/program"),
        command("hangs", sys.executable, "-c", hang),
        webhook("unset", "NOBODY_SETS_THIS"),
        seconds=15.0,
    )
    begun = time.monotonic()
    told = send_and_tell(notice("refused"), found, tmp_path)
    assert time.monotonic() - begun < 60
    assert set(told) == {"fails", "missing", "hangs", "unset"}  # `works` asks for promotions alone
    assert "exit code 1" in str(told["fails"])
    assert "exit code 127" in str(told["missing"])
    assert "channel_seconds" in str(told["hangs"])
    assert told["unset"] == "the environment variable NOBODY_SETS_THIS is not set"
    [asked] = hook.asked
    assert asked.json["event"] == "channel_failed"
    assert asked.json["failed_channels"] == told
    assert KOREAN in asked.json["headline"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["webhook", "ping", "apprise"])
def test_a_server_that_never_answers_is_given_up(
    tmp_path: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    hook.seconds = 30.0
    monkeypatch.setenv("OPS", hook.url("/apprise", scheme="json"))
    channel = {"name": "one", "kind": "apprise", "url_variable": "OPS"}
    chosen = {
        "webhook": params(webhook("one"), seconds=4.0),
        "apprise": params(channel, seconds=4.0),
    }
    asked = chosen.get(kind) or params(ping="HOOK", seconds=4.0)
    begun = time.monotonic()
    [why] = send(notice(), asked, tmp_path).values()
    assert "4 s" in str(why)
    assert time.monotonic() - begun < 20


@pytest.mark.slow
@pytest.mark.parametrize("status", [302, 307, 404, 500])
def test_an_answer_that_is_no_success_is_a_failure_and_no_redirect_is_followed(
    tmp_path: Path, hook: Listener, status: int
) -> None:
    with listener() as elsewhere:
        hook.status, hook.location = status, elsewhere.url()
        assert send(notice(), params(webhook("chat")), tmp_path) == {
            "chat": f"it answered {status}"
        }
        assert elsewhere.asked == []


@pytest.mark.slow
def test_verdicts_ping_and_a_silence_does_not(tmp_path: Path, hook: Listener) -> None:
    for event in get_args(Verdict)[:2]:
        assert send(notice(event), params(ping="HOOK"), tmp_path) == {"ping": None}
    assert send(notice("no_verdict"), params(ping="HOOK"), tmp_path) == {}
    assert [asked.method for asked in hook.asked] == ["GET", "GET"]


# Each holds a secret where a library's own words would repeat it.
BROKEN = [
    f"http://user:{SECRET}@127.0.0.1:1/{SECRET}",
    f"http://127.0.0.1:{SECRET}/x",
    f"http://[{SECRET}/x",
    f"ftp://{SECRET}@127.0.0.1/x",
    f"https://{SECRET}.invalid/x",
    f"{SECRET}",
    f"slack://{SECRET}",
    f"json://user:{SECRET}@127.0.0.1:1/{SECRET}",
    f"http://\n{SECRET}",
]


@pytest.mark.slow
def test_no_secret_stands_in_what_is_told_logged_or_in_a_process_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    channels = []
    for number, url in enumerate(BROKEN):
        variable = f"BROKEN_{number}"
        monkeypatch.setenv(variable, url)
        channels.append(webhook(f"hook-{number}", variable, token_variable=variable))
        channels.append({"name": f"apprise-{number}", "kind": "apprise", "url_variable": variable})
    watcher = command("ps", "sh", "-c", "cat /proc/[0-9]*/cmdline >> lines 2>/dev/null; true")
    told = send_and_tell(notice(), params(*channels, watcher), tmp_path)
    assert [name for name, why in told.items() if why is None] == ["ps"]
    lines = (tmp_path / "lines").read_text(errors="replace")
    assert "tasks.orchestration.delivery" in lines
    for text in (str(told), *capfd.readouterr(), lines):
        assert SECRET not in text
        assert "Zx9" not in text


@pytest.mark.slow
def test_the_output_of_a_command_is_not_told(tmp_path: Path) -> None:
    told = send(notice(), params(command("curl", "sh", "-c", f"echo {SECRET}; exit 3")), tmp_path)
    assert "exit code 3" in str(told["curl"])
    assert SECRET not in told["curl"]


LOOPBACK = ["127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "127.9.8.7", "0.0.0.0",
            "a.localhost"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("kind", ["webhook", "ping", "apprise"])
def test_no_loopback_address_goes_by_a_proxy(
    tmp_path: Path,
    hook: Listener,
    proxy: Listener,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    kind: str,
) -> None:
    scheme = "json" if kind == "apprise" else "http"
    monkeypatch.setenv("HOOK", hook.url("/x", host, scheme))
    channel = {"name": "one", "kind": "apprise", "url_variable": "HOOK"}
    chosen = {"webhook": params(webhook("one")), "apprise": params(channel)}
    [why] = send(notice(), chosen.get(kind) or params(ping="HOOK"), tmp_path).values()
    assert why is None
    assert (len(hook.asked), proxy.asked) == (1, [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["webhook", "ping", "apprise"])
def test_an_address_elsewhere_goes_by_the_proxy(
    tmp_path: Path, proxy: Listener, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    scheme = "json" if kind == "apprise" else "http"
    monkeypatch.setenv("HOOK", f"{scheme}://hooks.example.invalid/x")
    channel = {"name": "one", "kind": "apprise", "url_variable": "HOOK"}
    chosen = {"webhook": params(webhook("one")), "apprise": params(channel)}
    [why] = send(notice(), chosen.get(kind) or params(ping="HOOK"), tmp_path).values()
    assert why is None
    [asked] = proxy.asked
    assert asked.path.startswith("http://hooks.example.invalid")


@pytest.mark.parametrize("host", [*LOOPBACK, "::1", "::ffff:127.0.0.1", "::"])
def test_loopback_is_known_by_every_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "2001:db8::1", "localhost.example.invalid", "hooks.example.invalid", None]
)
def test_other_hosts_are_not_taken_for_loopback(host: str | None) -> None:
    assert not is_loopback(host)


WRONG = [
    ("url_variable: OPS_URL", f"url_variable: https://hooks.example/{SECRET}"),
    ("url_variable: OPS_URL", f"url: slack://{SECRET}"),
    ("name: ops", f"name: {SECRET}"),
    ("kind: apprise", f"kind: apprise\n  url_variable: [{SECRET}"),
    ("verdicts: all", "verdicts: []"),
    ("verdicts: all", "verdicts: [promoted, winning]"),
    ("name: ops", "name: ping"),
    ("channel_seconds: 15.0", "channel_seconds: 0.0"),
    ("channel_seconds: 15.0", "channel_seconds: 61.0"),
    ("no_verdict_hours: 26.0", "no_verdict_hours: -1.0"),
]


@pytest.mark.parametrize(("old", "new"), WRONG)
def test_wrong_params_are_refused_without_a_word_of_a_secret(
    tmp_path: Path, old: str, new: str
) -> None:
    text = (
        "channels:\n- name: ops\n  kind: apprise\n  url_variable: OPS_URL\n  verdicts: all\n"
        "ping_variable: null\nchannel_seconds: 15.0\nno_verdict_hours: 26.0\n"
    )
    path = tmp_path / "notify.yaml"
    path.write_text(text)
    assert load_params(Params, [path]).notify.channels
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        load_params(Params, [path])
    assert "notify.yaml" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_two_channels_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="a name of its own"):
        params(command("a", "true"), command("a", "true"))


def test_the_params_in_the_comments_are_right(tmp_path: Path) -> None:
    """What a user uncomments is taken as it stands."""
    text = Path("params/notify.yaml").read_text()
    shown = text.replace("channels: [] ", "channels: ").replace("\n# -", "\n-")
    shown = shown.replace("\n#  ", "\n ")
    path = tmp_path / "notify.yaml"
    path.write_text(shown)
    kinds = [channel.kind for channel in load_params(Params, [path]).notify.channels]
    assert kinds == ["apprise", "webhook", "command"]
    assert yaml.safe_load(text)["channels"] == []


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_a_message_is_short_printable_and_holds_no_password_whatever_it_is_of(
    text: str, more: str
) -> None:
    line = shown_line(f"{text} postgresql://me:{SECRET}@db/x {more}"[:2500])
    assert len(line) <= 300
    assert SECRET not in line
    assert line.isprintable() or not line
    long = notice(headline=line, links={str(n): "http://x/" + "y" * 200 for n in range(20)})
    assert len(long.text) <= 1500


@pytest.mark.slow
def test_korean_is_kept_whatever_the_locale(
    tmp_path: Path, hook: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LANG", "LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    channels = (webhook("chat"), command("wall", "tee", "told"))
    assert set(send(notice(), params(*channels), tmp_path).values()) == {None}
    assert hook.asked[0].json["headline"] == KOREAN
    assert KOREAN in (tmp_path / "told").read_text(encoding="utf-8")
    assert "LC_ALL" in os.environ
