"""What a night reads first: wrong params are told before it takes anything in."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prefect.logging import disable_run_logger

from flows import nightly, run_state
from flows.nightly import refresh
from flows.record import NightRecord
from flows.run_state import NightLog, NightState, error_entry, night_file, read_night
from flows.workspace import Workspace
from tasks.ingestion import intakes
from tasks.services.stores import RunRef, Stores
from tasks.stage.errors import ConfigError
from tests.builders.ingestion import files_entry, ingestion_params

STORES = Stores("sqlite:///none.db", None)


@pytest.fixture(autouse=True)
def _open_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's own server of this process asks for no secret that another test has set."""
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)


def test_a_night_that_is_interrupted_as_its_file_appears_is_cancelled_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, path = Workspace(tmp_path, tmp_path, ()), night_file(tmp_path, "night")
    (tmp_path / ".dvc").mkdir()
    written: list[str | None] = []
    write = run_state.write_night

    def interrupted(where: Path, state: NightState) -> None:
        write(where, state)
        written.append(state.verdict)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_state, "write_night", interrupted)
    monkeypatch.setattr(nightly, "open_checkout", lambda _: tmp_path)
    monkeypatch.setattr(nightly, "choose_workspace", lambda *_: place)
    monkeypatch.setattr(nightly, "tell", lambda *_: None)
    with disable_run_logger():
        state = nightly.nightly.fn(night="night")
    found = read_night(path)
    assert (state.name, found.verdict, found.error and found.error.kind) == (
        "Cancelled", "cancelled", "Interrupted",
    )  # fmt: skip


def workspace(folder: Path, file: str, old: str, new: str) -> Workspace:
    """A checkout of params alone, with one of them changed."""
    shutil.copytree("params", folder / "params")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    path = folder / "params" / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return Workspace(folder, folder, ())


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "promotion.yaml",
            "severity: refuse, max_over_base: 1.5}",
            "severity: refuse, max_over_base: 1.5, max_p95_ms: 800.0}",
            r"promotion\.yaml: rules\.latency: .*max_p95_ms is gone",
        ),
        ("promotion.yaml", "power: 0.8", "power: 8.0", r"promotion\.yaml: power"),
        ("release.yaml", "staging: automatic", "staging: sometimes", r"release\.yaml: staging"),
        ("night.yaml", "stage_hours: 24.0", "stage_hours: 0.0", r"night\.yaml: stage_hours"),
        ("night.yaml", "room: 1.0", "room: 11.0", r"night\.yaml: room"),
        ("night.yaml", "run_again: true", "run_again: twice", r"night\.yaml: run_again"),
        ("evaluation.yaml", "split: test", "split: validation", "a verdict needs the test split"),
        ("judging.yaml", "model: null", "model: 3", r"judging\.yaml: model"),
    ],
)
def test_params_that_are_used_at_the_end_are_read_before_anything_begins(
    tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    place = workspace(tmp_path, file, old, new)
    with pytest.raises(ConfigError, match=said):
        refresh(place, NightLog(place, "night"), STORES)
    assert not (tmp_path / "data").exists()


def test_night_params_of_before_are_refused_with_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "night.yaml").write_text("stage_hours: 24.0\n")
    with pytest.raises(ConfigError, match=r"silent_minutes, night_hours, .* are written beside it"):
        nightly._limits(Workspace(tmp_path, tmp_path, ()))


class ToldTracker:
    """Keeps the tags and the description of a night instead of MLflow."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.text = ""

    def begin_night(self, name: str, tags: dict[str, str]) -> RunRef:
        return RunRef("1", "a" * 32)

    def tag(self, run: RunRef, tags: dict[str, str]) -> None:
        self.tags |= tags

    def describe(self, run: RunRef, text: str) -> None:
        self.text = text

    def notes(self, run: str) -> dict[str, Any]:
        return {}

    def note(self, run: RunRef, **values: Any) -> None: ...

    def end(self, run: RunRef, *, finished: bool) -> None: ...


def test_a_source_that_is_left_out_is_told_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace(tmp_path, "night.yaml", "stage_hours: 24.0", "stage_hours: 23.0")
    (tmp_path / "faq.jsonl").write_text('{"id": "a", "question": "Why?", "answer": "So."}\n')
    gone = files_entry(tmp_path, "gone.jsonl", name="gone", on_failure="skip")
    params = ingestion_params(files_entry(tmp_path, "faq.jsonl", name="faq"), gone)
    _write_sources(tmp_path, params.model_dump(mode="json")["sources"])
    told: list[str] = []
    logger = SimpleNamespace(
        warning=lambda text, *values: told.append(text % values), info=lambda *_: None
    )
    monkeypatch.setattr(intakes, "get_run_logger", lambda: cast(logging.Logger, logger))
    monkeypatch.setattr(nightly, "ingest", intakes.ingest.fn)
    for name in ("track", "resolve_models"):
        monkeypatch.setattr(nightly, name, lambda *_, **__: None)
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / "base.json").write_text("{}")
    log, tracker = NightLog(place, "night"), ToldTracker()
    record = NightRecord(place, log, cast(Any, tracker))

    with disable_run_logger():
        refresh(place, log, STORES)
    record.tell_left_out()
    log.begin("building")
    record.fail(error_entry(ConfigError("stop here", "nothing")))

    assert told[0].startswith("source gone was left out: DataError: no file gone.jsonl")
    assert list(read_night(night_file(tmp_path, "night")).left_out) == ["gone"]
    assert tracker.tags["sources left out"] == "gone"
    assert "- source gone was left out: DataError: no file gone.jsonl" in tracker.text
    assert json.loads((tmp_path / "data" / "source_weights.json").read_text()) == {}


def test_the_weights_of_sources_are_frozen_for_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace(tmp_path, "night.yaml", "stage_hours: 24.0", "stage_hours: 23.0")
    entries = [
        files_entry(tmp_path, f"{name}.jsonl", name=name, weight=weight)
        for name, weight in (("faq", 3.0), ("docs", 1.0))
    ]
    _write_sources(tmp_path, entries)
    taken = intakes.TakenIn(None, {})
    given: list[Any] = []
    monkeypatch.setattr(nightly, "ingest", lambda *found: given.extend(found) or taken)
    for name in ("track", "resolve_models"):
        monkeypatch.setattr(nightly, name, lambda *_, **__: None)
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / "base.json").write_text("{}")
    refresh(place, NightLog(place, "night"), STORES)
    weights = json.loads((tmp_path / "data" / "source_weights.json").read_text())
    assert weights == {"faq": 3.0, "docs": 1.0}
    assert given[-1] is STORES  # which feedback is read from


def _write_sources(root: Path, entries: list[dict[str, Any]]) -> None:
    path = root / "params" / "ingestion.yaml"
    content = yaml.safe_load(path.read_text())
    names = {"name", "kind", "files", "on_failure", "weight"}
    kept = [{key: value for key, value in entry.items() if key in names} for entry in entries]
    path.write_text(yaml.safe_dump(content | {"sources": kept}))
