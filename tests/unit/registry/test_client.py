"""Versions, prompts and bundles in a real MLflow registry on sqlite."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment
from mlflow.tracking import MlflowClient
from prefect.logging import disable_run_logger

from tasks.orchestration.tracking import Tracker
from tasks.prompting.files import DEMONSTRATIONS, TEMPLATE
from tasks.registry import register as registration
from tasks.registry.client import PROMPT_NAME
from tasks.registry.versions import promotion_key
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import write_manifest
from tests.builders.registry import Shop


def test_a_version_is_found_by_its_key_and_gives_its_bundle_back(shop: Shop) -> None:
    made = shop.register("found")
    assert shop.registry.find("adapter", shop.key("found")) == made
    assert shop.registry.find("adapter", "other") is None
    bundle = shop.registry.bundle("adapter", made.number, shop.downloads)
    assert (bundle / "settings.json").read_text() == "found"
    assert (made.tags["prompt_version"], made.tags["stage"]) == ("1", "none")


def test_a_bundle_that_was_uploaded_is_not_made_again(shop: Shop) -> None:
    run = Tracker(shop.stores).begin_night("first", {})
    shop.registry._uploads.add("adapter", "k" * 64, shop.folder("once"), run)

    def never() -> Path:
        raise AssertionError("it was made again")

    later = Tracker(shop.stores).begin_night("second", {})
    version = shop.registry.register("adapter", "k" * 64, never, later, {})
    assert version.run_id == run.run_id
    assert shop.registry.bundle("adapter", 1, shop.downloads).is_dir()


class LostError(Exception):
    error_code = "INTERNAL_ERROR"


def test_a_version_whose_answer_was_lost_is_not_made_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, calls = MlflowClient.create_model_version, []

    def lose(*arguments: Any, **named: Any) -> None:
        calls.append(create(*arguments, **named))
        raise LostError("the connection was reset")

    monkeypatch.setattr(MlflowClient, "create_model_version", lose)
    assert shop.register("one").number == 1
    assert len(calls) == 1
    assert shop.registry.numbers("adapter") == [1]


def test_a_version_that_does_not_exist_is_told_with_those_that_do(shop: Shop) -> None:
    shop.register("one")
    shop.register("two")
    with pytest.raises(ConfigError, match="nightloom-adapter has no version 9; found 1, 2"):
        shop.registry.version("adapter", 9)
    with pytest.raises(ConfigError, match="found none"):
        shop.registry.version("student", 1)


def test_a_version_without_a_bundle_is_refused(shop: Shop) -> None:
    made = shop.register("gone")
    [manifest] = (shop.root / "artifacts").rglob("manifest.json")
    manifest.unlink()
    with pytest.raises(DataError, match="version 1 holds no bundle"):
        shop.registry.bundle("adapter", made.number, shop.downloads)


def test_a_prompt_has_one_version_a_digest_and_is_linked_to_its_night(shop: Shop) -> None:
    run = Tracker(shop.stores).begin_night("prompted", {})
    first = shop.registry.register_prompt("Q: {{ question }}", "a" * 64, run)
    assert shop.registry.register_prompt("Q: {{ question }}", "a" * 64, run) == first
    assert shop.registry.register_prompt("Ask: {{ question }}", "b" * 64, run) == first + 1
    linked = shop.client.get_run(run.run_id).data.tags["mlflow.linkedPrompts"]
    assert json.loads(linked) == [{"name": "nightloom-answer", "version": str(first + 1)}]


def test_a_prompt_is_registered_with_its_demonstrations(shop: Shop, tmp_path: Path) -> None:
    run = Tracker(shop.stores).begin_night("prompted", {})
    texts = []
    for turns in ([], [{"role": "user", "content": "Why {# not #}?"}]):
        (tmp_path / TEMPLATE).write_text("Q: {{ question }}")
        (tmp_path / DEMONSTRATIONS).write_text(json.dumps(turns))
        with disable_run_logger():
            number = registration.register_prompt.fn(tmp_path, run, shop.registry)
        texts.append(str(shop.client.get_prompt_version(PROMPT_NAME, str(number)).template))
    assert texts[0] == "Q: {{ question }}"
    assert texts[1].startswith(f"{texts[0]}\n{{# Shown before each question:")
    assert "Why {# not" in texts[1]
    assert Environment().from_string(texts[1]).render(question="x").strip() == "Q: x"


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["create_prompt", "create_prompt_version"])
def test_a_prompt_whose_answer_was_lost_is_not_made_twice(
    lost: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Tracker(shop.stores).begin_night("one", {})
    call, calls = getattr(MlflowClient, lost), []

    def loses(*given: Any, **named: Any) -> Any:
        made = call(*given, **named)
        calls.append(made)
        if len(calls) == 1:
            raise LostError("the connection was reset")
        return made

    monkeypatch.setattr(MlflowClient, lost, loses)
    assert shop.registry.register_prompt("ask", "digest", run) == 1
    assert [item.version for item in shop.client.search_prompt_versions(PROMPT_NAME)] == [1]


def test_a_new_version_is_named_by_no_alias_until_it_is_nominated(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(models: Any, root: Path, bundle: Path, folder: Path, store: Path) -> None:
        for model in models:
            shutil.copytree(shop.folder("one"), folder / model)

    monkeypatch.setattr(registration, "_save", save)
    bundle = shop.folder("one") / "artifacts" / "bundle"
    run = Tracker(shop.stores).begin_night("one", {})
    with disable_run_logger():
        versions = registration.register.fn(
            shop.root, bundle, shop.root, run, shop.registry, prompt=1
        )
    assert [version.number for version in versions] == [1, 1]
    assert shop.aliases() == {}
    registration.nominate(shop.registry, versions[0])
    assert shop.aliases() == {"candidate": 1}


def test_the_promotion_key_follows_the_bytes_of_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a")
    write_manifest(tmp_path)
    first = promotion_key(tmp_path)
    (tmp_path / "weights").write_text("b")
    write_manifest(tmp_path)
    assert promotion_key(tmp_path) != first
