"""Versions and aliases in a real MLflow registry on sqlite."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tasks.orchestration.promotion import move_to_staging, promote, reigning_name, roll_back
from tasks.orchestration.registry import Registry, Version, promotion_key
from tasks.orchestration.stores import Stores
from tasks.orchestration.tracking import Tracker
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import write_manifest


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    folder = tmp_path_factory.mktemp("registry")
    return Stores(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


@pytest.fixture(scope="module")
def registry(stores: Stores) -> Registry:
    return Registry(stores)


def register(registry: Registry, stores: Stores, folder: Path, key: str) -> Version:
    bundle = folder / "artifacts" / "bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "settings.json").write_text(key)
    write_manifest(bundle)
    run = Tracker(stores).begin_night(key, {})
    return registry.register("adapter", key, folder, run)


def stage_of(registry: Registry, version: Version) -> str:
    return registry.version("adapter", version.number).tags["stage"]


def test_before_the_first_night_there_is_nothing_to_promote(registry: Registry) -> None:
    assert registry.aliases("student") == {}
    assert reigning_name(registry, "student") is None
    with pytest.raises(ConfigError, match="no version of the student is in staging"):
        promote(registry, "student", None)
    with pytest.raises(ConfigError, match="was in production before"):
        roll_back(registry, "student")


def test_a_version_is_found_by_its_key_and_gives_its_bundle_back(
    registry: Registry, stores: Stores, tmp_path: Path
) -> None:
    made = register(registry, stores, tmp_path, "found")
    assert registry.find("adapter", "found") == made
    assert registry.find("adapter", "other") is None
    bundle = registry.bundle("adapter", made.number, tmp_path / "downloads")
    assert (bundle / "settings.json").read_text() == "found"


def test_a_prompt_has_one_version_a_digest_and_is_linked_to_its_night(
    registry: Registry, stores: Stores
) -> None:
    run = Tracker(stores).begin_night("prompted", {})
    first = registry.register_prompt("Q: {{ question }}", "a" * 64, run)
    assert registry.register_prompt("Q: {{ question }}", "a" * 64, run) == first
    assert registry.register_prompt("Ask: {{ question }}", "b" * 64, run) == first + 1
    linked = MlflowClient(stores.tracking_uri).get_run(run.run_id).data.tags["mlflow.linkedPrompts"]
    assert json.loads(linked) == [{"name": "nightloom-answer", "version": str(first + 1)}]


def test_versions_move_from_staging_to_production_and_back(
    registry: Registry, stores: Stores, tmp_path: Path
) -> None:
    first = register(registry, stores, tmp_path, "first")
    second = register(registry, stores, tmp_path, "second")
    move_to_staging(registry, first)
    assert reigning_name(registry, "adapter") == f"staging:{first.number}"
    promote(registry, "adapter", None)
    move_to_staging(registry, second)
    assert stage_of(registry, first) == "production"
    promote(registry, "adapter", None)
    aliases = registry.aliases("adapter")
    assert (aliases["production"], aliases["previous"]) == (second.number, first.number)
    assert stage_of(registry, first) == "archived"
    roll_back(registry, "adapter")
    aliases = registry.aliases("adapter")
    assert (aliases["production"], aliases["previous"]) == (first.number, second.number)
    assert reigning_name(registry, "adapter") == f"production:{first.number}"


def test_promoting_what_is_in_production_changes_nothing(
    registry: Registry, stores: Stores, tmp_path: Path
) -> None:
    version = register(registry, stores, tmp_path, "again")
    promote(registry, "adapter", version.number)
    before = registry.aliases("adapter")
    promote(registry, "adapter", version.number)
    assert registry.aliases("adapter") == before


def test_the_promotion_key_follows_the_bytes_of_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a")
    write_manifest(tmp_path)
    first = promotion_key(tmp_path)
    (tmp_path / "weights").write_text("b")
    write_manifest(tmp_path)
    assert promotion_key(tmp_path) != first
