"""Versions are swapped at once, and one that cannot be loaded leaves the old one serving."""

import gc
import queue
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.answering.loading import load_answerer
from tasks.answering.pipeline import Answerer
from tasks.records.schema import Message
from tasks.serving import memory as room
from tasks.serving.memory import needed_bytes, require_free_memory
from tasks.serving.protocol import NotServing, ServeVersion, Serving
from tasks.serving.requests import Event, Reply
from tasks.serving.server import load
from tasks.serving.versions import NotLoadedError, Versions
from tasks.stage.errors import ConfigError
from tests.builders.serving import Bundles, budget

QUESTION = [Message("user", "What does mod.f1 do?")]


@pytest.fixture
def versions(bundles: Bundles) -> Versions:
    return Versions(["adapter"], partial(load, bundles.store), budget())


def ask(versions: Versions) -> tuple[ServeVersion, "queue.Queue[Event]"]:
    events: queue.Queue[Event] = queue.Queue()
    order, _ = versions.ask("adapter", QUESTION, events.put)
    return order, events


def hear(events: "queue.Queue[Event]") -> Reply:
    while not isinstance(event := events.get(timeout=60), Reply):
        assert not isinstance(event, Exception), event
    return event


def test_before_anything_is_loaded_a_question_is_refused_and_health_says_so(
    versions: Versions,
) -> None:
    with pytest.raises(NotLoadedError, match="no version of the adapter is loaded yet"):
        ask(versions)
    assert versions.health()["status"] == "loading"


@pytest.mark.slow
def test_every_question_is_answered_by_one_version_wholly_over_a_swap(
    versions: Versions, bundles: Bundles
) -> None:
    """200 are waiting when the alias moves; whoever asks after the swap gets the new one."""
    known = {
        number: load_answerer(folder, bundles.store, "adapter").answer([QUESTION])[0].token_ids
        for number, folder in bundles.folders.items()
    }
    assert known[1] != known[2]
    assert isinstance(versions.install(bundles.order(1)), Serving)
    asked = [ask(versions) for _ in range(200)]
    assert isinstance(versions.install(bundles.order(2)), Serving)
    asked.append(ask(versions))
    assert [order.version for order, _ in asked] == [1] * 200 + [2]
    for order, events in asked:
        assert hear(events).token_ids == known[order.version]
    found: Any = versions.health()["models"]
    assert found["adapter"] | {"since": None} == {
        "version": 2, "alias": "production", "since": None, "in_flight": 0, "loading": None,
        "failed": None,
    }  # fmt: skip


@pytest.mark.slow
def test_the_old_version_leaves_memory(bundles: Bundles) -> None:
    seen: list[weakref.ref[Answerer]] = []

    def watched(order: ServeVersion, *, beside: bool) -> Answerer:
        answerer = load(bundles.store, order, beside=beside)
        seen.append(weakref.ref(answerer))
        return answerer

    versions = Versions(["adapter"], watched, budget())
    versions.install(bundles.order(1))
    hear(ask(versions)[1])
    versions.install(bundles.order(2))
    gc.collect()
    assert [ref() is None for ref in seen] == [True, False]


def test_an_alias_that_moves_to_the_same_version_loads_nothing(bundles: Bundles) -> None:
    loaded: list[int] = []

    def counted(order: ServeVersion, *, beside: bool) -> Answerer:
        loaded.append(order.version)
        return load(bundles.store, order, beside=beside)

    versions = Versions(["adapter"], counted, budget())
    versions.install(bundles.order(1, "staging"))
    notice = versions.install(bundles.order(1, "production"))
    assert (loaded, notice.alias if isinstance(notice, Serving) else "") == ([1], "production")
    assert ask(versions)[0].alias == "production"


@pytest.mark.slow
def test_a_version_with_a_changed_byte_is_not_served_and_the_old_one_is(
    versions: Versions, bundles: Bundles, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(bundles.folders[2], tmp_path / "bundle")
    index = tmp_path / "bundle" / "index" / "vectors.npy"
    content = bytearray(index.read_bytes())
    content[-1] ^= 1
    index.write_bytes(content)
    versions.install(bundles.order(1))
    notice = versions.install(
        bundles.order(2).model_copy(update={"bundle": str(tmp_path / "bundle")})
    )
    assert isinstance(notice, NotServing)
    assert (notice.version, notice.still) == (2, 1)
    assert notice.error.startswith("DataError")
    assert "index/vectors.npy" in notice.error
    standing: Any = versions.health()["models"]
    assert standing["adapter"]["version"] == 1
    assert standing["adapter"]["failed"] == {"version": 2, "error": notice.error}
    assert hear(ask(versions)[1]).text
    versions.install(bundles.order(2))
    assert versions.health()["models"]["adapter"]["failed"] is None  # type: ignore[index]


def test_without_memory_for_two_versions_the_old_one_serves_on(
    versions: Versions, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_memory", lambda _: 1000)
    assert isinstance(versions.install(bundles.order(1)), Serving)  # the first has all there is
    notice = versions.install(bundles.order(2))
    assert isinstance(notice, NotServing)
    assert notice.still == 1
    assert "0.00 GB are left" in notice.error


def test_what_a_version_takes_is_counted_in_numbers_not_in_bytes(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights stored in 16 bits are held in 32."""
    import torch
    from safetensors.torch import save_file

    from tasks.serving.memory import _numbers

    save_file({"a": torch.zeros(6, 5, dtype=torch.bfloat16)}, tmp_path / "w.safetensors")
    assert _numbers(tmp_path / "w.safetensors") == 30
    needed = {
        model: needed_bytes(bundles.folders[1], bundles.store, model)
        for model in ("adapter", "student")
    }
    assert all(size > 100_000 for size in needed.values())
    monkeypatch.setattr(room, "free_memory", lambda _: needed["adapter"])
    require_free_memory(bundles.folders[1], bundles.store, "adapter")
    monkeypatch.setattr(room, "free_memory", lambda _: needed["adapter"] - 1)
    with pytest.raises(ConfigError, match="beside the one that answers"):
        require_free_memory(bundles.folders[1], bundles.store, "adapter")


@pytest.mark.slow
def test_questions_are_taken_while_a_version_loads(bundles: Bundles) -> None:
    """The seat is not locked for as long as loading takes."""
    may_load = threading.Event()

    def slow(order: ServeVersion, *, beside: bool) -> Answerer:
        if order.version == 2:
            assert may_load.wait(60)
        return load(bundles.store, order, beside=beside)

    versions = Versions(["adapter"], slow, budget())
    versions.install(bundles.order(1))
    loading = threading.Thread(target=versions.install, args=(bundles.order(2),))
    loading.start()
    assert hear(ask(versions)[1]).text
    may_load.set()
    loading.join()
    assert ask(versions)[0].version == 2
