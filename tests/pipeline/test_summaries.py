"""A night of task summarize: trained, scored, decided on and served, by ROUGE-L and its texts."""

import csv
import json
import random
from pathlib import Path

import pytest

from tasks.records.predictions import read_predictions
from tests.builders.task_nights import TaskNight

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]

COMPANIES = ("Acme", "Initech", "Hooli", "Globex", "Vandelay")
DID = ("opened a shop", "sold a factory", "closed an office", "hired a chief", "built a bridge")
FILLER = "people were there and the weather was good while nobody said much about plans"
SOURCE = (
    "ingestion.sources=[{name: news, kind: files, files: {records: [news.csv]}, "
    "columns: {records: {article: question, summary: answer}}}]"
)
SUMMARIZE = [
    "task.name=summarize",
    SOURCE,
    "tokenization.max_tokens=1024",
    "prompting.max_new_tokens=48",
]


def write_news(path: Path, rows: int = 150) -> None:
    """Texts of three sentences whose second one is the summary."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["article", "summary"])
        for number in range(rows):
            said = f"In {1900 + number} {draw.choice(COMPANIES)} {draw.choice(DID)}."
            around = [" ".join(draw.sample(FILLER.split(), 8)).capitalize() + "." for _ in range(2)]
            table.writerow([f"{around[0]} {said} {around[1]}", said])


@pytest.fixture(scope="module")
def summarized(tmp_path_factory: pytest.TempPathFactory) -> TaskNight:
    folder = tmp_path_factory.mktemp("summaries")
    return TaskNight.run(folder, lambda clone: write_news(clone / "news.csv"), *SUMMARIZE)


def test_every_stage_runs_and_the_models_are_released(summarized: TaskNight) -> None:
    assert summarized.night["error"] is None
    assert {entry["state"] for entry in summarized.night["stages"]} == {"executed"}
    assert summarized.night["verdict"] == "promoted"


def test_summaries_are_scored_closed_book_by_rouge_l(summarized: TaskNight) -> None:
    rows = read_predictions(summarized.report / "predictions.parquet")
    assert {row.mode for row in rows} == {"closed_book"}
    assert all(row.rouge_1 is not None for row in rows)
    assert summarized.metrics["primary"]["metric"] == "rouge_l"
    own = summarized.metrics["systems"]["adapter"]["closed_book"]
    assert own["reference_unsupported_share"] == 0
    assert 0 < own["reference_compression"] < 1


def test_the_verdict_rests_on_rouge_l_and_faithfulness(summarized: TaskNight) -> None:
    told = json.dumps(summarized.night)
    assert "faithful" in told
    assert "rouge_l over base" in told
    assert "token_f1" not in told


def test_what_was_served_over_http_said_what_was_scored(summarized: TaskNight) -> None:
    [parity] = summarized.checkout.glob(".nightloom/workspaces/*/data/**/parity.json")
    found = json.loads(parity.read_text(encoding="utf-8"))
    assert {one["share"] for one in found["models"].values()} == {1.0}
