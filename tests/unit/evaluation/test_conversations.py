"""Task chat from evaluation to the bundle: every turn asked after the reference turns before it,
searched for by its conversation, and scored by conversation."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.answering.loading import open_answerer
from tasks.answering.pipeline import prompt_sha256
from tasks.evaluation.requests import Request, make_injected_requests, read_injections
from tasks.evaluation.rescoring import Params as RescoringParams
from tasks.evaluation.rescoring import Paths as RescoringPaths
from tasks.evaluation.rescoring import run as rescore
from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.prompting.templates import Prompt
from tasks.records.predictions import (
    Prediction,
    read_likelihoods,
    read_predictions,
    record_scores,
)
from tasks.records.schema import read_records
from tasks.retrieval.index import Index
from tasks.scoring.identity import records_sha256, turn_scoring_sha256
from tasks.stage.metrics import read_metrics
from tasks.stage.params import read_yaml
from tasks.task_types.chat import CHAT as CHAT_TYPE
from tests.builders.conversations import CHAT, as_chat
from tests.builders.packaging import package, packaging_params
from tests.unit.conftest import Tiny
from tests.unit.evaluation.conftest import TaskNight

pytestmark = pytest.mark.slow

MODE = "retrieved"


def rows_of(night: TaskNight, system: str, mode: str = MODE) -> list[Prediction]:
    return [row for row in night.rows if (row.system, row.mode) == (system, mode)]


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shared: dict[str, Any]
) -> TaskNight:
    root = tmp_path_factory.mktemp("conversations")
    return TaskNight.make(root, as_chat(tiny, root / "tiny"), shared, "chat")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, night: TaskNight) -> Path:
    params = packaging_params(**night.shared)
    root = tmp_path_factory.mktemp("bundle")
    return package(root, params, night.tiny, night.scored.index, night.scored.report)


def test_each_learned_turn_is_asked_once_after_the_reference_turns_before_it(
    night: TaskNight,
) -> None:
    tokenizer = load_tokenizer(ModelManifest.read(night.tiny.base).folder(night.tiny.store))
    template = read_prompt_bundle(night.tiny.adapter / PROMPT, tokenizer)
    records = {row.id: row for row in read_records(night.tiny.curated / "test.jsonl")}
    rows = rows_of(night, "adapter", "closed_book")
    asked = {row.record: records[row.record] for row in rows}
    wanted = {
        (record.id, number)
        for record in asked.values()
        for number in range(1, len(record.messages) // 2 + 1)
        if number not in record.unlearned
    }
    assert Counter((row.record, row.turn) for row in rows) == Counter(wanted)
    for row in rows:
        assert row.turn is not None
        turns = asked[row.record].messages[: 2 * row.turn]
        [ids] = template.token_ids(tokenizer, [Prompt(turns[:-1], ())])
        assert row.prompt_sha256 == prompt_sha256(ids)
        assert (row.question, row.reference) == (turns[-2].content, turns[-1].content)


def test_passages_are_those_that_the_conversation_finds(night: TaskNight) -> None:
    records = {row.id: row for row in read_records(night.tiny.curated / "test.jsonl")}
    index, later = Index.load(night.scored.index), 0
    assert index.settings.weights_measured is not None
    for row in rows_of(night, "adapter"):
        assert row.turn is not None
        turns = records[row.record].messages[: 2 * row.turn - 1]
        found = index.lexical.search([CHAT.query(turns)], 1)[0][0] if index.lexical else []
        alone = index.lexical.search([turns[-1].content], 1)[0][0] if index.lexical else []
        if row.turn > 1 and found[0] != alone[0]:
            later += 1
            assert index.passages[found[0]].id in row.retrieved
    assert later


def test_a_conversation_has_one_score_the_mean_of_its_turns(night: TaskNight) -> None:
    found = night.metrics
    assert found["task"] == {"name": "chat", "learn": "all"}
    assert found["primary"]["metric"] == "token_f1"
    assert found["records"] == 8
    scores = {name: record_scores(rows_of(night, name), "token_f1") for name in ("base", "adapter")}
    assert len(scores["adapter"]) == 8 < len(rows_of(night, "adapter"))
    mean = sum(scores["adapter"].values()) / 8
    assert found["systems"]["adapter"][MODE]["token_f1"] == pytest.approx(mean)
    assert found["intervals"]["adapter"][MODE]["value"] == pytest.approx(mean)
    pair = found["comparisons"]["adapter-base"]
    assert pair["records"] == 8
    assert pair["difference"] == pytest.approx(mean - sum(scores["base"].values()) / 8)
    assert sum(row["records"] for row in found["slices"]["adapter"].values()) == 8
    assert set(CHAT_TYPE.metrics) <= set(found["systems"]["adapter"][MODE])
    assert found["retrieval"]["records"] <= 8


def test_hashes_are_of_the_turns_that_were_asked(night: TaskNight) -> None:
    found = night.metrics["test_split"]
    chosen = {row.record for row in rows_of(night, "adapter")}
    test = read_records(night.tiny.curated / "test.jsonl")
    asked = CHAT.asked([row for row in test if row.id in chosen])
    assert found["scored_sha256"] == records_sha256(asked)
    markers = read_yaml(Path("params/evaluation.yaml"))["abstentions"]
    assert found["scoring_sha256"] == turn_scoring_sha256(markers)


def test_scores_by_turn_are_those_of_the_turn_s_rows(night: TaskNight) -> None:
    found = night.metrics["turns"]["adapter"]
    by_turn: dict[str, list[float]] = {}
    for row in rows_of(night, "adapter"):
        by_turn.setdefault(str(row.turn), []).append(row.score("token_f1"))
    assert {turn: row["records"] for turn, row in found.items()} == {
        turn: len(values) for turn, values in by_turn.items()
    }
    for turn, values in by_turn.items():
        assert found[turn]["token_f1"] == pytest.approx(sum(values) / len(values))
    text = (night.scored.report / "report.md").read_text()
    assert "## By turn" in text
    assert "How do later turns do?" in text
    page = (night.scored.report / "report.html").read_text()
    assert 'id="turns"' in page
    assert ", turn 2" in page


def test_likelihoods_are_one_a_conversation_over_all_its_turns(night: TaskNight) -> None:
    rows = read_likelihoods(night.scored.report / "likelihoods.parquet")
    own = {row.record: row for row in rows if row.system == "adapter"}
    assert len(own) == sum(row.system == "adapter" for row in rows) == 8
    tokens = Counter[int]()
    for row in rows_of(night, "adapter"):
        tokens[row.record] += 1  # type: ignore[index]
    assert all(own[str(name)].tokens > count for name, count in tokens.items())


def test_wrong_passages_are_not_asked_of_turns_which_may_need_none(night: TaskNight) -> None:
    assert night.metrics["asked"]["distractor_reason"] == "a turn may need no passage"
    assert not rows_of(night, "adapter", "distractor")


def test_injections_are_shown_to_all_turns_of_a_conversation_so_that_both_sides_have_the_same(
    night: TaskNight,
) -> None:
    records = CHAT.asked(read_records(night.tiny.curated / "test.jsonl"))
    plain = [Request(record, MODE, (), record.answer) for record in records]
    made = make_injected_requests(plain, read_injections(), 2)
    first = list(dict.fromkeys(record.id for record in records))[:2]
    assert [item.record for item in made] == [one for one in records if one.id in first]


def test_the_bundle_answers_last_turns_as_was_scored_and_its_card_tells_of_conversations(
    bundle: Path, night: TaskNight
) -> None:
    found = read_metrics(bundle.parent / "report")
    assert found["parity"] == {"adapter": 1.0, "student": 1.0}
    card = (bundle / "README.md").read_text()
    assert "Replies in conversations" in card
    assert "text-generation" in card
    test = read_records(night.tiny.curated / "test.jsonl")
    assert found["likelihood_sha256"] == records_sha256(CHAT.asked(test))


def test_what_is_served_searches_by_the_conversation_as_evaluation_did(
    bundle: Path, night: TaskNight
) -> None:
    answerer = open_answerer(bundle, night.tiny.store, "adapter")
    records = {row.id: row for row in read_records(night.tiny.curated / "test.jsonl")}
    rows = rows_of(night, "adapter")
    turns = [records[row.record].messages[: 2 * (row.turn or 0) - 1] for row in rows]
    for row, prepared in zip(rows, answerer.prepare(turns), strict=True):
        assert tuple(item.passage.id for item in prepared.passages) == row.retrieved
        assert prompt_sha256(prepared.prompt) == row.prompt_sha256


def test_a_champion_is_scored_again_turn_by_turn(
    tmp_path: Path, bundle: Path, night: TaskNight
) -> None:
    settings = read_yaml(Path("params/evaluation.yaml")) | {"records": 8, "resamples": 200}
    given = {"evaluation": settings, "compute": night.shared["compute"]}
    paths = RescoringPaths(
        curated=night.tiny.curated,
        model_store=night.tiny.store,
        bundle=bundle / "adapter",
        scratch=tmp_path / "scratch",
        rescore_report=tmp_path / "rescored",
    )
    rescore(RescoringParams.model_validate(given), paths)
    again = read_predictions(tmp_path / "rescored/predictions.parquet")
    known = {(row.record, row.turn): row.output for row in rows_of(night, "adapter")}
    assert {(row.record, row.turn): row.output for row in again} == known
    found = read_metrics(tmp_path / "rescored")
    assert found["test_split"] == night.metrics["test_split"]
    assert found["records"] == 8
