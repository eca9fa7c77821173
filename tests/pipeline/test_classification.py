"""A night of task classify: trained, scored, decided on and served over HTTP, by its labels."""

import csv
import json
import random
from pathlib import Path

import pytest

from tasks.records.predictions import read_predictions
from tests.builders.clones import nightloom
from tests.builders.task_nights import ALIKE, TaskNight, run_tiny
from tests.fingerprint.clone import Clone

pytestmark = [pytest.mark.night, pytest.mark.timeout(900)]

WORDS = {
    "refund": "money back return paid charge",
    "card lost": "gone stolen missing wallet where",
    "top-up": "balance add account fund more",
}
COMMON = "please help me with my the a now today"
SOURCE = (
    "ingestion.sources=[{name: intents, kind: files, files: {records: [intents.csv]}, "
    "columns: {records: {text: question, category: answer}}}]"
)
CLASSIFY = [
    "task.name=classify",
    SOURCE,
]


def write_intents(path: Path, rows: int = 70) -> None:
    """Texts of nine words each, some of which are their label's own."""
    draw = random.Random(1)
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "category"])
        for label, words in WORDS.items():
            known = [*words.split(), *COMMON.split()]
            for _ in range(rows):
                table.writerow([" ".join(draw.choice(known) for _ in range(9)) + "?", label])


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> TaskNight:
    folder = tmp_path_factory.mktemp("labels")
    return TaskNight.run(folder, lambda clone: write_intents(clone / "intents.csv"), *CLASSIFY)


def test_every_stage_runs_and_the_models_are_released(classified: TaskNight) -> None:
    assert classified.night["error"] is None
    assert {entry["state"] for entry in classified.night["stages"]} == {"executed"}
    assert classified.night["verdict"] == "promoted"
    assert {model["verdict"] for model in classified.night["models"].values()} == {"promoted"}


def test_labels_alone_were_said_by_every_system(classified: TaskNight) -> None:
    rows = read_predictions(classified.report / "predictions.parquet")
    assert {row.output for row in rows} <= set(WORDS)
    assert {row.system for row in rows} == set(classified.metrics["systems"])
    assert classified.metrics["primary"]["metric"] == "accuracy"
    assert classified.metrics["systems"]["linear"]["closed_book"]["accuracy"] > 0.8


def test_the_verdict_rests_on_accuracy_and_on_the_rules_of_classifiers(
    classified: TaskNight,
) -> None:
    told = json.dumps(classified.night)
    assert "beats_linear" in told
    assert "accuracy over linear" in told
    assert "token_f1" not in told


def test_what_was_served_over_http_said_what_was_scored(classified: TaskNight) -> None:
    [parity] = classified.checkout.glob(".nightloom/workspaces/*/data/**/parity.json")
    found = json.loads(parity.read_text(encoding="utf-8"))
    assert {one["share"] for one in found["models"].values()} == {1.0}
    assert {one["mean_score_difference"] for one in found["models"].values()} == {0.0}


def test_a_registered_version_gives_a_label_to_who_asks(classified: TaskNight) -> None:
    done = nightloom(classified.checkout, "ask", "where is my stolen wallet", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["answer"] in WORDS


def test_labels_that_differ_in_case_alone_stop_the_night_before_training(tmp_path: Path) -> None:
    clone = Clone.make(Path(), tmp_path / "checkout").root
    write_intents(clone / "intents.csv", rows=30)
    path = clone / "intents.csv"
    path.write_text(path.read_text().replace(",refund", ",Top-Up"), encoding="utf-8")
    done = run_tiny(clone, *CLASSIFY, *ALIKE)
    night = json.loads(done.stdout)
    assert "'Top-Up', 'top-up'" in night["error"]["message"]
    states = {entry["name"]: entry["state"] for entry in night["stages"]}
    assert states["tokenization"] == "failed"
    assert states["finetuning"] == "not_run"
