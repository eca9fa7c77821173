"""Put the release bundle together, answer from it as it will be served, and write its card."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from tasks.answering.golden import GoldenPrompt, GoldenPrompts
from tasks.answering.loading import open_answerer
from tasks.answering.release_bundle import ADAPTER, EMBEDDER, BundleSettings
from tasks.embedding.adapter import read_gain
from tasks.models.manifest import ModelManifest
from tasks.models.provenance import PROVENANCE_FILE
from tasks.packaging.assembly import Parts, assemble
from tasks.packaging.golden_prompts import choose_golden_prompts
from tasks.packaging.model_card import CARD_FILE, CardFacts, count_data, model_card
from tasks.packaging.params import Params
from tasks.packaging.parity import (
    PARITY_METRIC,
    ParityRow,
    check_parity,
    choose_asked,
    parity_row,
    score_parity,
    share_agreeing,
)
from tasks.prompting.files import PROMPT
from tasks.records.predictions import (
    LIKELIHOODS_FILE,
    PREDICTIONS_FILE,
    Likelihood,
    read_predictions,
    write_likelihoods,
)
from tasks.records.schema import (
    Record,
    ServedModel,
    read_records,
    read_rows,
    stream_records,
    write_rows,
)
from tasks.scoring.identity import records_sha256
from tasks.scoring.record_hashes import LEARNED_FILE, Hashes, hash_learned, write_hashes
from tasks.sequences.likelihood import reference_likelihoods
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import Curves, read_metrics, write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.pages import plain_markdown
from tasks.task_types.table import TrainedTask

ANSWERS_FILE = "answers.jsonl"
_SERVED: tuple[ServedModel, ...] = get_args(ServedModel)


@dataclass(frozen=True)
class Paths:
    """What packaging reads and writes."""

    curated: Path
    base: Path
    retriever: Path
    model_store: Path
    adapter: Path
    students: Path
    index: Path
    evaluation_report: Path
    scratch: Path
    bundle: Path = output()
    packaging_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write the bundle and the report on its parity with evaluation."""
    curves = Curves(paths.scratch)
    metrics = read_metrics(verified(paths.evaluation_report))
    with output_folders(paths.bundle, paths.packaging_report) as (bundle, report):
        settings = BundleSettings(
            prompting=params.prompting, models=params.models, compute=params.compute
        )
        assemble(bundle, _parts(paths, metrics["offered"]["folder"]), settings)
        write_hashes(bundle / LEARNED_FILE, _learned(verified(paths.curated)))
        curves.progress(1, 3)
        test = read_records(paths.curated / "test.jsonl")
        rows, likely = _ask(bundle, params, paths, test, metrics["offered"]["system"])
        task = TrainedTask.read(bundle / ADAPTER / PROMPT)
        metric = task.type.metric or PARITY_METRIC
        shares = {model: share_agreeing(own) for model, own in rows.items()}
        curves.progress(2, 3)
        card = plain_markdown(model_card(_facts(params, paths, bundle, metrics, shares)))
        (bundle / CARD_FILE).write_text(card, encoding="utf-8")
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        found = {
            "parity": shares,
            "parity_scores": {model: score_parity(own, metric) for model, own in rows.items()},
            "golden": len(rows["adapter"]),
            "bundle_bytes": size,
            "likelihood_sha256": records_sha256(test),
        }
        write_metrics(report, found)
        write_likelihoods(report / LIKELIHOODS_FILE, likely)
        write_rows(report / ANSWERS_FILE, (asdict(row) for own in rows.values() for row in own))
        (report / "report.md").write_text(card, encoding="utf-8")
    curves.progress(3, 3)


def _learned(curated: Path) -> Hashes:
    """Return the hashes of what the bundle's models may have learned.

    Training reads train, and stops early by validation; a later split may hold records of both.
    """
    splits = ("train", "validation")
    records = (row for split in splits for row in stream_records(curated / f"{split}.jsonl"))
    lineage = read_rows(curated / "lineage.jsonl")
    duplicates = ((row["id"], row["kept"]) for row in lineage if row["kind"] == "record")
    return hash_learned(records, ((name, kept) for name, kept in duplicates if kept is not None))


def _ask(
    bundle: Path, params: Params, paths: Paths, test: Sequence[Record], offered: str
) -> tuple[dict[ServedModel, list[ParityRow]], list[Likelihood]]:
    """Return what each model answers from the bundle, beside evaluation's; write golden.json.

    With it, how likely each finds the references of the whole test split. `offered` is the system
    that evaluation knows the student as.

    Raises:
        GateError: a model answers otherwise than it did in evaluation.
    """
    predictions = read_predictions(paths.evaluation_report / PREDICTIONS_FILE)
    asked, expected = choose_asked(test, predictions, params.packaging.golden)
    rows: dict[ServedModel, list[ParityRow]] = {}
    likely: list[Likelihood] = []
    most = params.compute.micro_batch_tokens
    golden: dict[str, tuple[GoldenPrompt, ...]] = {}
    for model in _SERVED:
        system = offered if model == "student" else model
        answerer = open_answerer(bundle, paths.model_store, model)
        answers = answerer.answer([record.messages[:-1] for record in asked])
        rows[model] = [
            parity_row(model, record, answer, expected[system, record.id])
            for record, answer in zip(asked, answers, strict=True)
        ]
        check_parity(rows[model], params.packaging.max_mismatch)
        golden[model] = choose_golden_prompts(answerer, asked, answers, params.packaging)
        found = reference_likelihoods(
            answerer.language_model, answerer.template, test, max_tokens=most
        )
        likely += [row.named(model) for row in found]
        del answerer  # one model is in memory at a time
    GoldenPrompts(models=golden).write(bundle)
    return rows, likely


def _facts(
    params: Params,
    paths: Paths,
    bundle: Path,
    metrics: Mapping[str, Any],
    shares: Mapping[ServedModel, float],
) -> CardFacts:
    return CardFacts(
        metrics=metrics,
        parity={str(model): share for model, share in shares.items()},
        contents=count_data(paths.curated),
        trainings={
            model: json.loads((bundle / model / PROVENANCE_FILE).read_text(encoding="utf-8"))
            for model in _SERVED
        },
        base=ModelManifest.read(paths.base),
        embedder=ModelManifest.read(bundle / EMBEDDER),
        gain=read_gain(bundle / EMBEDDER),
        numeric_form=params.models.numeric_form,
        max_new_tokens=params.prompting.max_new_tokens,
        task=TrainedTask.read(bundle / ADAPTER / PROMPT),
    )


def _parts(paths: Paths, offered: str) -> Parts:
    """Return the bundle's parts; `offered` is the folder of the student that evaluation offers."""
    return Parts(
        adapter=paths.adapter,
        student=paths.students / offered,
        index=paths.index,
        base=paths.base,
        retriever=paths.retriever,
    )


if __name__ == "__main__":
    sys.exit(run_stage("packaging", Params, Paths, run))
