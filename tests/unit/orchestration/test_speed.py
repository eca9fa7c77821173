"""The release measures speed in one child, and says so where it does not."""

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import release
from tasks.orchestration import speed as measuring
from tasks.promotion.shadow import SHADOW_FILE
from tasks.promotion.speed import SPEED_FILE, Speed
from tasks.stage.errors import ConfigError

MODELS = ("adapter", "student")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout: the code that the child runs, and params that can be changed."""
    (tmp_path / "tasks").symlink_to(Path("tasks").resolve())
    shutil.copytree("params", tmp_path / "params")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(measuring, "get_run_logger", lambda: logging.getLogger("speed"))
    return tmp_path


@pytest.mark.slow
def test_both_models_are_measured_beside_their_base(
    root: Path, released: Path, tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = measuring.speed.fn(root, released, tiny.store, MODELS, root / "scratch")
    assert found == Speed.read(root / "scratch" / SPEED_FILE)
    assert set(found.over_base) == set(MODELS)
    for model in MODELS:
        assert found.summary(model) in caplog.messages


@pytest.mark.slow
def test_a_bundle_that_can_t_be_loaded_says_why(root: Path, tiny: Any) -> None:
    (root / "scratch" / SPEED_FILE).write_text("of an earlier release")
    with pytest.raises(ConfigError, match=r"speed: .* holds no settings\.json"):
        measuring.speed.fn(root, root, tiny.store, MODELS, root / "scratch")
    assert not (root / "scratch" / SPEED_FILE).exists()


def test_nothing_is_measured_where_no_rule_asks_for_it(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = root / "params" / "promotion.yaml"
    asked = "{enabled: true, severity: refuse, max_over_base: 1.5}"
    assert asked in file.read_text()
    file.write_text(file.read_text().replace(asked, asked.replace("true", "false")))
    (root / "scratch" / SPEED_FILE).write_text("of an earlier release")
    assert measuring.speed.fn(root, root, root, MODELS, root / "scratch") is None
    assert not (root / "scratch" / SPEED_FILE).exists()
    assert "speed is not measured: params/promotion.yaml turns latency off" in caplog.messages


def test_a_release_measures_speed_once_nothing_is_served_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []
    monkeypatch.setattr(release, "_key", lambda *_: None)
    monkeypatch.setattr(release, "_standing", lambda *_: None)
    monkeypatch.setattr(release, "_evidence", lambda *_: steps.append("rescored"))
    monkeypatch.setattr(release, "verify", lambda *_: steps.append("served and ended"))
    monkeypatch.setattr(release, "speed", lambda *given: steps.append(given))
    monkeypatch.setattr(release, "_sides", lambda *_: {"adapter": "beside the champion"})
    monkeypatch.setattr(release, "promotion_key", lambda _: "the bundle's")
    monkeypatch.setattr(release, "shadow", lambda *given: steps.append(given))
    stores = SimpleNamespace(tracking_uri="sqlite://")
    monkeypatch.setattr(release, "find_stores", lambda _: stores)
    paths = SimpleNamespace(
        curation_report="c", bundle="b", evaluation_report="e", model_store="m", scratch="s"
    )
    workspace = SimpleNamespace(path=tmp_path, checkout=tmp_path, paths=lambda: paths)
    kept: list[list[Path]] = []
    tracker = SimpleNamespace(log_files=lambda _, files, folder: kept.append(files))
    anything: Any = None
    place: Any = workspace
    context = release._ReleaseContext(place, anything, anything, anything, tracker)  # type: ignore[arg-type]
    versions: Any = [SimpleNamespace(model="adapter", number=2)]
    log: Any = SimpleNamespace(begin=steps.append)
    release._gather(context, versions, log)
    scratch = tmp_path / "s" / "release"
    assert steps == [
        "rescoring the champion", "rescored",
        "asking what was registered", "served and ended",
        "measuring speed", (tmp_path, tmp_path / "b", tmp_path / "m", ("adapter",), scratch),
        "answering served questions again",
        ({"adapter": "beside the champion"}, "the bundle's", stores,
         release.ShadowPlace(tmp_path, tmp_path / "m", scratch)),
    ]  # fmt: skip
    assert kept[-2:] == [[scratch / SPEED_FILE], [scratch / SHADOW_FILE]]
