"""Models are timed in turns with their base; what is written is what promotion reads."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.promotion.params import LatencyParams
from tasks.promotion.rules.resources import slower_than_base
from tasks.promotion.speed import LEAST_ROUNDS, Speed
from tasks.serving import speed as measuring
from tasks.serving.speed import (
    NEW_TOKENS,
    Bootstrapping,
    Contestant,
    Turn,
    load_contestants,
    main,
    over_base,
    speed_of,
    take_turns,
)
from tasks.stage.outputs import MANIFEST, file_sha256
from tests.builders.slow_model import with_more_passes

pytestmark = pytest.mark.slow

DRAWING = Bootstrapping(0.95, 1000, 17)
PARAMS = LatencyParams(enabled=True, severity="refuse", max_over_base=1.5)


@pytest.fixture(scope="module")
def contestants(released: Path, tiny: Any) -> dict[str, Contestant]:
    return load_contestants(released, tiny.store, ["adapter", "student"])


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `main` sets where nothing is set, so that it stays in the test."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


def test_a_file_is_written_that_says_what_each_model_took(
    released: Path, tiny: Any, tmp_path: Path
) -> None:
    options = ["--bundle", str(released), "--store", str(tiny.store), "--confidence", "0.95"]
    options += ["--resamples", "1000", "--seed", "17", "--output", str(tmp_path / "speed.json")]
    assert main([*options, "--models", "adapter", "student"]) == 0
    found = Speed.read(tmp_path / "speed.json")
    assert found.bundle_sha256 == file_sha256(released / MANIFEST)
    assert len(found.rounds) >= LEAST_ROUNDS
    assert all(list(one) == ["base", "adapter", "student"] for one in found.rounds)
    assert found.over_base.keys() == {"adapter", "student"}
    for one in found.rounds:
        for turn in one.values():
            assert 0 < turn.first_token_seconds < turn.seconds
            assert turn.cpu_seconds > 0
    assert (found.device, found.threads, found.confidence) == ("cpu", 1, 0.95)
    assert "first token after" in found.summary("adapter")
    assert "tokens a second" in found.summary("student")


def test_a_bundle_that_can_t_be_loaded_is_told_in_one_error(
    tiny: Any, tmp_path: Path, capsys: Any
) -> None:
    options = ["--bundle", str(tmp_path), "--store", str(tiny.store), "--models", "adapter"]
    options += ["--confidence", "0.95", "--resamples", "1000", "--seed", "1"]
    assert main([*options, "--output", str(tmp_path / "speed.json")]) == 1
    assert "ConfigError: " in capsys.readouterr().out
    assert not (tmp_path / "speed.json").exists()


def test_torch_is_not_imported_before_its_threads_are_told_how_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY")
    code = (
        "import os, sys; from tasks.serving.speed import wait_without_spinning as wait; wait();"
        "sys.exit('torch' in sys.modules or os.environ['OMP_WAIT_POLICY'] != 'PASSIVE')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_take_turns_with_the_same_questions_and_the_same_work(
    contestants: dict[str, Contestant], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {id(one.model): name for name, one in contestants.items()}
    seen: list[tuple[str, int]] = []

    def turn(model: Any, prompt: tuple[int, ...]) -> Turn:
        name = names[id(model)]
        seen.append((name, contestants[name].prompts.index(prompt)))
        return Turn(1.0, 0.5, 1.0)

    monkeypatch.setattr(measuring, "take_turn", turn)
    rounds = take_turns(contestants, most_rounds=4, most_seconds=60.0)
    assert len(rounds) == 4
    order = ["base", "adapter", "student"]
    places = [0, *(number % 3 for number in range(4))]  # the first is the warm-up
    assert seen == [(name, place) for place in places for name in order]


def test_a_turn_goes_on_where_a_model_would_have_stopped(
    contestants: dict[str, Contestant], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.generation import greedy_decoding

    made: list[int] = []
    generate = greedy_decoding.generate

    def counted(*given: Any, **named: Any) -> Any:
        found = generate(*given, **named)
        made.append(len(found[0].token_ids))
        return found

    monkeypatch.setattr(greedy_decoding, "generate", counted)
    take_turns(contestants, most_rounds=1, most_seconds=60.0)
    assert Counter(made) == {NEW_TOKENS: 6}


def test_no_round_begins_that_would_end_too_late(
    contestants: dict[str, Contestant], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 7))
    monkeypatch.setattr(measuring, "take_turn", lambda *_: Turn(1.0, 0.5, 1.0))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(clock)))
    assert len(take_turns(contestants, most_rounds=15, most_seconds=60.0)) == 4
    assert take_turns(contestants, most_rounds=15, most_seconds=3.0) == []


def test_where_no_round_was_taken_nothing_is_said_of_a_model(
    contestants: dict[str, Contestant],
) -> None:
    found = Speed.model_validate_json(speed_of(contestants, [], DRAWING, "0" * 64))
    assert found.over_base == {}
    assert found.summary("adapter") == "adapter: no round was measured"
    [result] = slower_than_base(found, "adapter", PARAMS)
    assert not result.holds
    assert result.mild


def test_a_round_that_was_disturbed_changes_a_ratio_little() -> None:
    def turn(seconds: float) -> Turn:
        return Turn(seconds, seconds / 2, seconds)

    rounds = [{"base": turn(1.0), "adapter": turn(1.1)} for _ in range(9)]
    rounds[3] = {"base": turn(1.0), "adapter": turn(40.0)}
    found = over_base(rounds, DRAWING)["adapter"]["seconds"]
    assert found["value"] == pytest.approx(1.1)
    assert found["high"] == pytest.approx(1.1)


def test_a_model_that_is_as_fast_passes_and_a_much_slower_one_is_refused(
    contestants: dict[str, Contestant],
) -> None:
    """The judgements of tests/benchmarks/speed.py, with a tiny model, also on a busy machine.

    The slower one does each pass thrice: of a tiny model's turn, passes are only a part.
    """
    good = {name: contestants[name] for name in ("base", "adapter")}
    slow = Contestant(with_more_passes(good["adapter"].model, 3), good["adapter"].prompts)
    outcomes = {}
    for name, tried in (("good", good), ("slow", good | {"adapter": slow})):
        rounds = take_turns(tried, most_rounds=31, most_seconds=30.0)
        found = Speed.model_validate_json(speed_of(tried, rounds, DRAWING, "0" * 64))
        outcomes[name] = [
            "passed" if one.holds else "warned" if one.mild else "refused"
            for one in slower_than_base(found, "adapter", PARAMS)
        ]
    assert "refused" not in outcomes["good"]
    assert "refused" in outcomes["slow"]
