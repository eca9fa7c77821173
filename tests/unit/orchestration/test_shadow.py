"""Candidates beside their champion on served questions: chosen, compared, and told by the rule."""

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.feedback.exchanges import Exchange, ReplayedAnswer
from tasks.feedback.params import ShadowParams
from tasks.feedback.served import ServedQuestion
from tasks.feedback.traces import ServedTraces
from tasks.orchestration import shadow as module
from tasks.orchestration.shadow import (
    ShadowPlace,
    Sides,
    choose_questions,
    compare,
    most_different,
    shadow,
)
from tasks.promotion.shadow import SHADOW_FILE, Shadow, ShadowSide
from tasks.records.schema import ServedModel
from tasks.services.stores import Stores
from tasks.stage.errors import ConfigError
from tests.builders import served_questions
from tests.builders.served_questions import PASSAGE
from tests.builders.serving import Bundles

NOW = datetime.now(UTC)
MARKERS = ["I don't know"]


def exchange(number: int, question: str, model: ServedModel = "adapter") -> Exchange:
    asked = NOW - timedelta(minutes=number)
    return served_questions.exchange(number, question, model=model, asked=asked)


def served(number: int, question: str, model: ServedModel = "adapter") -> ServedQuestion:
    return served_questions.served(f"tr-{number}", exchange(number, question, model))


def answers(*texts: str) -> list[ReplayedAnswer]:
    return [ReplayedAnswer(text=text, passages=(PASSAGE,)) for text in texts]


def test_a_models_newest_conversations_are_chosen_once_each() -> None:
    asked = [
        served(3, "c"),
        served(2, "b"),
        served(9, "b"),
        served(1, "a"),
        served(0, "s", "student"),
    ]
    params = ShadowParams(days=7, questions=2)
    assert [one.exchange.question for one in choose_questions(asked, "adapter", params)] == [
        "a",
        "b",
    ]


def test_what_differs_is_counted_and_the_most_different_come_first() -> None:
    asked = [served(number, f"q{number}") for number in range(4)]
    champion = answers("f returns one.", "f returns one.", "I don't know.", "f returns one.")
    candidate = answers("f returns one. ", "f returns two.", "I don't know.", "I don't know.")
    found = compare(asked, candidate, champion, MARKERS, "production:1")
    assert (found.questions, found.differing) == (4, 2)
    assert found.champion_side == ShadowSide(abstained=1, groundedness=1.0)
    assert found.candidate_side.abstained == 2
    assert 0 < (found.candidate_side.groundedness or 0) < 1
    apart = most_different(asked, candidate, champion)
    assert [question.trace for question, _ in apart] == ["tr-3", "tr-1"]


@pytest.fixture
def stores(empty_store: Path, tmp_path: Path) -> Stores:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return Stores(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")


@pytest.fixture(autouse=True)
def _outside_of_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("shadow"))
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")


@pytest.mark.slow
def test_two_versions_answer_what_was_asked_and_the_differences_go_to_the_queue(
    bundles: Bundles, stores: Stores, tmp_path: Path
) -> None:
    traces = ServedTraces(stores)
    for number, name in enumerate(("f1", "f2")):
        traces.write(exchange(number, f"What does mod.{name} do?"))
    sides = Sides(bundles.folders[2], "adapter-2", bundles.folders[1], "production:1")
    place = ShadowPlace(Path().absolute(), bundles.store, tmp_path)
    found = shadow.fn({"adapter": sides}, "a" * 64, stores, place)
    assert found == Shadow.read(tmp_path / SHADOW_FILE)
    assert found is not None
    assert (found.models["adapter"].questions, found.models["adapter"].differing) == (2, 2)
    assert {tuple(one.others) for one in traces.questions()} == {("adapter-2",)}
    assert list((tmp_path / "shadow").iterdir()) == []
    broken = Sides(tmp_path, "adapter-3", bundles.folders[1], "production:1")
    with pytest.raises(ConfigError, match="is not a release bundle"):
        shadow.fn({"adapter": broken}, "a" * 64, stores, place)
    assert not (tmp_path / SHADOW_FILE).exists()


def test_where_nothing_was_served_nothing_is_written(stores: Stores, tmp_path: Path) -> None:
    place = ShadowPlace(Path().absolute(), tmp_path, tmp_path)
    sides = Sides(tmp_path, "adapter-2", tmp_path, "production:1")
    (tmp_path / SHADOW_FILE).write_text("an earlier release's")
    assert shadow.fn({"adapter": sides}, "a" * 64, stores, place) is None
    assert not (tmp_path / SHADOW_FILE).exists()
