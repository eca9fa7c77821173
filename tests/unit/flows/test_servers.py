"""What `nightloom up` deploys: the schedule that was asked for, and nothing else of its own."""

import stat
from pathlib import Path

import pytest
import yaml

from flows import deploy
from flows.servers import Schedule, write_deployments
from flows.workspace import STATE


def test_a_schedule_that_is_asked_for_stands_alone_in_place_of_the_nights_own(
    tmp_path: Path,
) -> None:
    own = Path("prefect.yaml").read_bytes()
    (tmp_path / "prefect.yaml").write_bytes(own)
    path = write_deployments(tmp_path, None, [], Schedule("30 2 * * 1-5", "Asia/Seoul"))
    expected = yaml.safe_load(own)
    [nightly] = [entry for entry in expected["deployments"] if entry["name"] == "nightly"]
    assert [entry["cron"] for entry in nightly["schedules"]] != ["30 2 * * 1-5"]
    nightly["schedules"] = [{"cron": "30 2 * * 1-5", "timezone": "Asia/Seoul", "active": True}]
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == expected
    assert (tmp_path / "prefect.yaml").read_bytes() == own
    assert path.is_relative_to(tmp_path / STATE)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_last_schedule_that_was_asked_for_is_written(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_bytes(Path("prefect.yaml").read_bytes())
    write_deployments(tmp_path, None, [], Schedule("0 1 * * *", "Etc/UTC"))
    path = write_deployments(tmp_path, None, [], Schedule("0 4 * * *", "Europe/Berlin"))
    deployments = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    [nightly] = [entry for entry in deployments if entry["name"] == "nightly"]
    assert [entry["cron"] for entry in nightly["schedules"]] == ["0 4 * * *"]


def test_all_that_works_in_the_nights_workspace_gets_their_preset_and_overrides(
    tmp_path: Path,
) -> None:
    own = Path("prefect.yaml").read_bytes()
    (tmp_path / "prefect.yaml").write_bytes(own)
    path = write_deployments(tmp_path, "tiny", ["finetuning.rank=4"])
    expected = yaml.safe_load(own)
    for entry in expected["deployments"]:
        if entry["name"] in ("nightly", "release", "sweep", "evaluate"):
            entry["parameters"] |= {"preset": "tiny", "overrides": ["finetuning.rank=4"]}
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == expected


def test_a_deployment_that_fails_names_the_command_and_asks_nobody_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that is there already is none of Prefect's failures that count."""
    called: list[str] = []

    def run_prefect(*words: str) -> tuple[int, str]:
        called.append(words[0])
        found = {"gcl": (1, "it already exists"), "deploy": (1, "no such cron")}
        return found.get(words[0], (0, ""))

    monkeypatch.setattr(deploy, "run_prefect", run_prefect)
    monkeypatch.setattr(deploy.open_approvals, "main", lambda _: called.append("asked"))
    assert deploy.main(["--pool", "nightloom", "--template", "t.json"]) == 1
    assert called == ["work-pool", "gcl", "deploy"]
    said = capsys.readouterr().out
    assert said.startswith(
        "`prefect deploy --all --prefect-file prefect.yaml` failed:\nno such cron"
    )
