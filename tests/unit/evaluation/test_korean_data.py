"""Real Korean pairs go the whole way: read, cut, found, answered, scored and reported.

The data lie beside the repository and are no part of it.
"""

import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation import __main__ as evaluation
from tasks.indexing import __main__ as indexing
from tasks.ingestion.sources.files import FilesSource
from tasks.lexical.bm25 import LexicalIndex
from tasks.records.columns import NO_COLUMNS, Columns
from tasks.records.predictions import read_predictions
from tasks.records.schema import Document, Message, Record, write_documents, write_records
from tasks.records.text_files import PLAIN
from tasks.scoring.answer_scores import SCORES
from tasks.stage.metrics import flatten, read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import read_yaml
from tests.unit.conftest import Tiny

FOLDER = Path(os.environ.get("NIGHTLOOM_SHARED", "../shared")) / "data"
CSV = FOLDER / "chatbot_ko.csv"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CSV.exists(), reason=f"{CSV} is missing: Korean pairs that are no part of the project"
    ),
]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str, str]]:
    """Question, answer and label of every row, as a source of files reads them."""
    columns = {
        "records": Columns({"Q": "question", "A": "answer", "label": "slice"}),
        "documents": NO_COLUMNS,
    }
    names = {"records": [CSV.name], "documents": []}
    source = FilesSource(str(FOLDER.resolve()), names, columns, PLAIN, 10_000)
    rows = [found.line.row for found in source.read("records")]
    return [(row["question"], row["answer"], row["slice"]) for row in rows if row is not None]


def test_an_answer_equal_to_its_reference_scores_one_and_another_less(pairs: Any) -> None:
    assert len(pairs) > 11_000
    answers = [answer for _, answer, _ in pairs[::40]]
    for answer, other in pairwise(answers):
        for name, score in SCORES.items():
            assert score(answer, answer) == pytest.approx(1), (name, answer)
            assert answer == other or score(other, answer) < 1, (name, answer, other)


def test_an_answer_is_found_by_its_beginning_under_any_particle(pairs: Any) -> None:
    answers = list(dict.fromkeys(answer for _, answer, _ in pairs if len(answer) > 14))[:2000]
    asked = range(0, len(answers), 20)
    index = LexicalIndex.build(answers)
    found, _ = index.search([f"{answers[at][:10]}까지는" for at in asked], 5)
    hits = [at in best.tolist() for at, best in zip(asked, found, strict=True)]
    assert sum(hits) / len(hits) > 0.9


@pytest.fixture(scope="module")
def report(
    pairs: Any,
    tiny: Tiny,
    prompting: Any,
    models: Any,
    compute: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The tiny models' evaluation on 12 of the pairs, whose answers are the documents."""
    root = tmp_path_factory.mktemp("korean")
    rows = [
        Record(
            f"r{number}",
            (Message("user", question), Message("assistant", answer)),
            (f"d{number}",),
            label,
            f"d{number}",
            "chatbot_ko",
            "MIT",
            "n1",
        )
        for number, (question, answer, label) in enumerate(pairs[::900][:12])
    ]
    curated = root / "curated"
    curated.mkdir()
    for split in ("train", "validation", "test"):
        write_records(curated / f"{split}.jsonl", rows)
    texts = [Document(f"d{n}", row.answer, "", "chatbot_ko", "MIT") for n, row in enumerate(rows)]
    write_documents(curated / "documents.jsonl", texts)
    write_manifest(curated)
    shared = {"prompting": prompting, "compute": compute}
    names = ("task", "indexing", "reranking")
    files = {name: read_yaml(Path(f"params/{name}.yaml")) for name in names}
    indexing.run(
        indexing.Params.model_validate(shared | files),
        indexing.Paths(
            curated,
            tiny.base,
            tiny.retriever,
            tiny.reranker,
            tiny.store,
            root / "scratch",
            root / "index",
            root / "indexing",
        ),
    )
    settings = read_yaml(Path("params/evaluation.yaml")) | {"resamples": 200, "records": 12}
    evaluation.run(
        evaluation.Params.model_validate(shared | {"models": models, "evaluation": settings}),
        evaluation.Paths(
            curated=curated,
            base=tiny.base,
            retriever=tiny.retriever,
            model_store=tiny.store,
            adapter=tiny.adapter,
            students=tiny.students,
            index=root / "index",
            scratch=root / "scratch",
            evaluation_report=root / "evaluation",
        ),
    )
    shutil.rmtree(root / "scratch")
    return root / "evaluation"


def test_every_number_is_there_or_null_with_a_reason(report: Path) -> None:
    flat = flatten(read_metrics(report))
    for name, value in flat.items():
        assert value is not None or flat.get(f"{name}_reason"), name
    assert flat["retrieval.records"] == 12
    assert {row.slice for row in read_predictions(report / "predictions.parquet")} == set("012")


def test_the_report_holds_the_korean_as_it_is(report: Path, pairs: Any) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert pairs[0][1].rstrip(".") in page
