"""Put the release bundle together, answer from it as it will be served, and write its card."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tasks.lm.conversion import ModelManifest
from tasks.packaging.assembly import Parts, assemble
from tasks.packaging.card import CARD_FILE, model_card
from tasks.packaging.golden import answer_golden, parity, write_golden
from tasks.packaging.params import Params
from tasks.records.files import read_records
from tasks.records.predictions import PREDICTIONS_FILE, read_predictions
from tasks.serving.bundle import BundleSettings, ServedModel
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import Curves, read_metrics, write_metrics
from tasks.stage.outputs import output_folders, verified


@dataclass(frozen=True)
class Paths:
    """What packaging reads and writes."""

    curated: Path
    base: Path
    embedder: Path
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
    evaluation = verified(paths.evaluation_report)
    metrics = read_metrics(evaluation)
    offered = metrics["offered"]
    predictions = read_predictions(evaluation / PREDICTIONS_FILE)
    records = read_records(verified(paths.curated) / "test.jsonl")
    with output_folders(paths.bundle, paths.packaging_report) as (bundle, report):
        settings = BundleSettings(
            prompting=params.prompting, models=params.models, compute=params.compute
        )
        assemble(bundle, _parts(paths, offered["folder"]), settings)
        curves.progress(1, 3)
        heard: dict[ServedModel, str] = {"adapter": "adapter", "student": offered["system"]}
        golden = answer_golden(
            bundle, paths.model_store, records, predictions, heard, params.packaging.golden
        )
        shares = parity(golden, params.packaging.max_mismatch)
        curves.progress(2, 3)
        write_golden(bundle, golden)
        card = model_card(
            metrics,
            shares,
            ModelManifest.read(paths.base),
            ModelManifest.read(paths.embedder),
            params.models.numeric_form,
        )
        (bundle / CARD_FILE).write_text(card, encoding="utf-8")
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        asked = len({item.record for item in golden})
        write_metrics(report, {"parity": shares, "golden": asked, "bundle_bytes": size})
        (report / "report.md").write_text(card, encoding="utf-8")
    curves.progress(3, 3)


def _parts(paths: Paths, offered: str) -> Parts:
    """The bundle's parts; `offered` is the folder of the student that evaluation offers."""
    return Parts(
        adapter=paths.adapter,
        student=paths.students / offered,
        index=paths.index,
        base=paths.base,
        embedder=paths.embedder,
    )


if __name__ == "__main__":
    sys.exit(run_stage("packaging", Params, Paths, run))
