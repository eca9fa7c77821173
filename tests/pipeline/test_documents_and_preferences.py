"""A night that learns documents before its answers, and preferences after them."""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.builders.clones import MILD, UNTIMED, nightloom
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]

SYLLABLES = ("ba", "den", "fo", "gar", "hul", "ka", "lim", "mo", "nes", "pir", "sot", "tav")
TOWNS = ("Oslo", "Lima", "Turin", "Quito", "Delft", "Osaka", "Perth", "Cork")
WORDS = "the shop sells red and green cloth to people who walk by on cold days in spring"
DOCUMENTS = 150
SOURCE = (
    "ingestion.sources=[{name: shops, kind: files, "
    "files: {records: [rows.csv], documents: [documents.csv]}, "
    "columns: {records: {chosen: completion, rejected: rejected_answer}}}]"
)
LEARNED = [
    SOURCE,
    "tokenization.documents=true",
    "tokenization.held_out_documents=0.2",
    "tokenization.preferences=true",
    "finetuning.documents_share=0.3",
    "finetuning.preferences={beta: 0.1, learning_rate: 5.0e-3, token_budget: 4000}",
    "curation.max_removed_share.duplicates=1.0",
    "curation.max_removed_share.leaks=1.0",
]


def write_shops(folder: Path) -> None:
    """Documents that say where a shop is, and a question of each with a right and a wrong town."""
    draw = random.Random(1)
    with (
        (folder / "documents.csv").open("w", encoding="utf-8", newline="") as documents,
        (folder / "rows.csv").open("w", encoding="utf-8", newline="") as rows,
    ):
        texts, questions = csv.writer(documents), csv.writer(rows)
        texts.writerow(["id", "text"])
        questions.writerow(["id", "prompt", "chosen", "rejected", "documents"])
        for number in range(DOCUMENTS):
            name = "".join(draw.sample(SYLLABLES, 3)).capitalize()
            right, wrong = draw.sample(TOWNS, 2)
            said = " ".join(draw.sample(WORDS.split(), 12))
            texts.writerow([f"d{number}", f"{name} is a shop in {right}. {said}."])
            asked = " ".join(draw.sample(WORDS.split(), 5))
            questions.writerow(
                [
                    f"r{number}",
                    f"Where is {name}, {asked}?",
                    f"In {right}.",
                    f"In {wrong}.",
                    f"d{number}",
                ]
            )


def options(*settings: str) -> list[str]:
    return [word for text in settings for word in ("--set", text)]


@dataclass(frozen=True)
class Learned:
    """A clone after its night, and the night's report."""

    checkout: Path
    night: dict[str, Any]

    def data(self, pattern: str) -> Path:
        [found] = self.checkout.glob(f".nightloom/workspaces/*/data/{pattern}")
        return found

    def metrics(self, stage: str) -> dict[str, Any]:
        text = self.data(f"reports/{stage}/metrics.json").read_text(encoding="utf-8")
        return dict(json.loads(text))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    clone = Clone.make(Path(), tmp_path_factory.mktemp("shops") / "checkout").root
    write_shops(clone)
    settings = options(*LEARNED, *MILD, UNTIMED)
    done = nightloom(clone, "run", "--preset", "tiny", "--json", *settings)
    assert done.stdout, done.stderr[-3000:]
    return Learned(clone, json.loads(done.stdout))


def test_the_night_runs_every_stage_and_releases_its_models(learned: Learned) -> None:
    assert learned.night["error"] is None
    assert {entry["state"] for entry in learned.night["stages"]} == {"executed"}
    assert learned.night["verdict"] == "promoted"


def test_the_reports_tell_what_documents_and_preferences_came_to(learned: Learned) -> None:
    made, told = learned.metrics("tokenization"), learned.metrics("finetuning")
    assert made["documents"]["learned"]["documents"] >= told["documents"]["documents"] > 0
    assert told["documents"]["perplexity_after"] < told["documents"]["perplexity_before"]
    assert made["preferences"]["train"]["pairs"] >= told["preferences"]["pairs"] > 0
    assert 0 <= told["preferences"]["accuracy"] <= 1
    text = learned.data("reports/finetuning/report.md").read_text(encoding="utf-8")
    assert "Documents: " in text
    assert "Preferences (DPO): " in text


def test_mlflow_has_the_numbers_and_the_curves_of_both(learned: Learned) -> None:
    client = MlflowClient(f"sqlite:///{learned.checkout / '.nightloom' / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'nightloom'")
    [run] = client.search_runs([experiment.experiment_id], filter_string="run_name = 'finetuning'")
    told = learned.metrics("finetuning")
    for name in ("documents/perplexity_before", "documents/perplexity_after"):
        assert run.data.metrics[name] == pytest.approx(told["documents"][name.split("/")[1]])
    assert run.data.metrics["preferences/accuracy"] == told["preferences"]["accuracy"]
    for curve in ("loss", "leading_loss", "preferences/loss", "preferences/validation_loss"):
        assert client.get_metric_history(run.info.run_id, curve), curve


def test_the_model_card_names_both(learned: Learned) -> None:
    card = learned.data("bundle/README.md").read_text(encoding="utf-8")
    assert "documents_share 0.3" in card
    assert "preferences (beta 0.1, learning_rate 0.005, token_budget 4000)" in card
