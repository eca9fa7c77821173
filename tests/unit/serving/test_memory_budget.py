"""Rows are let in by the memory that is there; what is too large for it is refused, not tried."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.answering.loading import load_answerer
from tasks.answering.pipeline import Answerer
from tasks.serving import batcher as engine_module
from tasks.serving import memory_budget
from tasks.serving.batcher import Batcher
from tasks.serving.memory_budget import MemoryBudget, free_memory
from tasks.serving.openai_api import refusal
from tasks.serving.requests import NoMemoryError, Reply
from tasks.serving.row_memory import cache_token_bytes, held_bytes, unwritten_bytes
from tests.builders.serving import Bundles, Ear

CPU = torch.device("cpu")
LONG = "Think of it well. " * 40


@pytest.fixture(scope="module")
def answerer(bundles: Bundles) -> Answerer:
    loaded = load_answerer(bundles.folders[1], bundles.store, "adapter")
    loaded.language_model.model.double()
    return loaded


class Free:
    """A machine with so much memory for rows, of which an engine's slots take what they take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.most = most
        self.held_most = 0
        self.engine: Batcher | None = None
        monkeypatch.setattr(memory_budget, "free_memory", lambda _: self.most - self.held())
        advance = engine_module.advance

        def seen(*given: Any) -> Any:
            rows = advance(*given)
            self.held_most = max(self.held_most, self.held())
            return rows

        monkeypatch.setattr(engine_module, "advance", seen)

    def held(self) -> int:
        if self.engine is None or self.engine._batch is None:
            return 0
        return held_bytes(self.engine._batch.slots, self.engine._token_bytes)


def test_what_a_token_takes_is_what_slots_take(answerer: Answerer) -> None:
    engine = Batcher(answerer, MemoryBudget(0))
    Ear(engine, "why?").hear()
    batch = engine._batch
    assert batch is not None
    layers = batch.slots.layers.values()
    made = sum(room.nbytes for layer in layers for room in (*layer.path, *layer.slots))
    tokens = batch.slots.prompt_tokens + batch.slots.rows * batch.slots.row_tokens
    assert made == tokens * cache_token_bytes(answerer.language_model.model)
    one = batch.slots.prompt_tokens + batch.slots.row_tokens
    assert held_bytes(batch.slots, 1) == one  # one slot was used
    assert unwritten_bytes(batch.slots, 1, 1) == 0
    assert unwritten_bytes(batch.slots, 3, 1) == 2 * batch.slots.row_tokens
    engine.close()


def test_with_memory_for_few_rows_many_long_ones_wait_and_get_the_same_answers(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [f"What does mod.f{n} do? {LONG}" for n in range(12)]
    plenty, expected = _answers(answerer, questions, Free(monkeypatch, 10**12))
    most = plenty // 2
    few, replies = _answers(answerer, questions, Free(monkeypatch, most))
    assert 0 < few <= most
    assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in expected]


def _answers(answerer: Answerer, questions: list[str], room: Free) -> tuple[int, list[Reply]]:
    """The most memory that rows held, in bytes, and the answers to questions asked at once."""
    engine = room.engine = Batcher(answerer, MemoryBudget(0))
    replies = [ear.hear() for ear in [Ear(engine, question) for question in questions]]
    engine.close()
    engine.join()
    return room.held_most, replies


def test_what_is_too_long_for_memory_is_refused_and_what_is_short_is_answered(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = cache_token_bytes(answerer.language_model.model)
    room = Free(monkeypatch, 1300 * token)
    engine = room.engine = Batcher(answerer, MemoryBudget(0))
    with pytest.raises(NoMemoryError, match="MB of memory while it is answered") as error:
        Ear(engine, LONG * 4).hear()
    told = refusal(error.value)
    assert (told.status, told.body["error"]["code"]) == (503, "no_memory")
    assert int(told.headers["retry-after"]) > 0
    assert Ear(engine, "why?").hear().token_ids
    room.most = 0
    with pytest.raises(NoMemoryError):
        Ear(engine, LONG).hear()
    room.most = 10**12
    assert Ear(engine, LONG * 4).hear().token_ids
    assert engine.in_flight == 0
    engine.close()


def test_a_model_that_answers_alone_is_bounded_too(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answerer.language_model.model.generation_config, "min_length", 2)
    room = Free(monkeypatch, 0)
    engine = Batcher(answerer, MemoryBudget(0))
    with pytest.raises(NoMemoryError):
        Ear(engine, "why?").hear()
    room.most = 10**12
    assert Ear(engine, "why?").hear().token_ids
    engine.close()


def test_an_engine_that_nobody_asks_gives_back_what_long_rows_took(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested = threading.Event()
    rest = Batcher._rest

    def seen(engine: Batcher) -> None:
        rest(engine)
        rested.set()

    monkeypatch.setattr(Batcher, "_rest", seen)
    monkeypatch.setattr(engine_module, "_IDLE_BYTES", 0)
    engine = Batcher(answerer, MemoryBudget(0))
    rested.clear()
    first = Ear(engine, LONG).hear()
    assert rested.wait(10)
    assert engine._batch is None
    assert Ear(engine, LONG).hear().token_ids == first.token_ids
    engine.close()


def test_what_one_engine_was_granted_is_not_free_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_budget, "free_memory", lambda _: 100)
    budget = MemoryBudget(10)
    first, second = object(), object()
    assert budget.claim(first, 50, CPU)
    assert budget.available(second, CPU) == 40
    assert not budget.claim(second, 41, CPU)
    assert budget.claim(second, 40, CPU)
    assert budget.claim(first, 50, CPU)  # in place of its first claim
    budget.release(first)
    assert budget.claim(second, 90, CPU)
    assert not budget.claim(first, 1, CPU)
    assert budget.claim(first, 0, CPU)  # nothing more than is written already


def test_limits_of_control_groups_are_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def group(folder: Path, **files: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / f"memory.{name}").write_text(f"{content}\n")

    own = tmp_path / "proc"
    monkeypatch.setattr(memory_budget, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory_budget, "_GROUP", own)
    whole = free_memory(CPU)
    own.write_text("0::/pod/box\n")
    group(tmp_path / "cgroup" / "pod", max=5_000_000, current=1_000_000, stat="inactive_file 7")
    group(tmp_path / "cgroup" / "pod" / "box", max="max", current=10, stat="anon 1")
    assert free_memory(CPU) == 4_000_007
    group(tmp_path / "cgroup" / "pod" / "box", max=100, current=900, stat="anon 1")
    assert free_memory(CPU) == 0
    own.write_text("0::/\n")  # in a container its group looks like the root
    group(tmp_path / "cgroup", max=2_000, current=1_000, stat="inactive_file 0")
    assert free_memory(CPU) == 1_000
    for line in ("0::/elsewhere\n", "1:memory:/x\n"):
        own.write_text(line)
    assert free_memory(CPU) > whole / 10
