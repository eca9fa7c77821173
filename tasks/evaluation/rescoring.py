"""Score one release bundle alone on a test split: answers, and the whole split's likelihood.

Answers are in the primary mode. --bundle is BUNDLE (its adapter) or BUNDLE/student, asked as it is
served: its prompt, passages and numeric form are its own.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.answering.golden import check_golden_model
from tasks.answering.release_bundle import SETTINGS
from tasks.evaluation.aggregates import row_metrics, speed
from tasks.evaluation.identity import split_hashes
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.requests import choose_records, primary_requests
from tasks.evaluation.system_run import (
    LikelihoodTest,
    PromptSettings,
    SystemResult,
    describe_machine,
    perplexities,
)
from tasks.evaluation.systems import bundle_model, served_system
from tasks.models.loading import LanguageModel, prepare_device
from tasks.records.predictions import (
    LIKELIHOODS_FILE,
    PREDICTIONS_FILE,
    SCORE_NAMES,
    write_likelihoods,
    write_predictions,
)
from tasks.records.schema import ServedModel, read_records
from tasks.scoring.identity import records_sha256
from tasks.stage.command import output, run_stage
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.params import ComputeParams, StageParams


class Params(StageParams):
    """The files that a rescoring is given."""

    evaluation: EvaluationParams
    compute: ComputeParams


@dataclass(frozen=True)
class Paths:
    """What a rescoring reads and writes."""

    curated: Path
    model_store: Path
    bundle: Path
    scratch: Path
    rescore_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write metrics.json, predictions.parquet and likelihoods.parquet of the bundle's model."""
    chosen, compute = params.evaluation, params.compute
    test = read_records(verified(paths.curated) / "test.jsonl")
    records = choose_records(test, chosen.records, chosen.salt, split="test")
    bundle, model = _bundle_model(paths.bundle)
    guest = served_system(
        model,
        bundle,
        model,
        paths.model_store,
        batch_size=compute.generation_batch,
        device=prepare_device(compute),
        abstentions=tuple(chosen.abstentions),
    )
    assert guest.library is not None  # a bundle has its own
    questions = primary_requests(records, guest.library, chosen)
    likelihood = LikelihoodTest(test, compute.micro_batch_tokens)
    system = SystemResult(guest.subject.name)
    golden = _GoldenTest(bundle, guest.subject.asking)
    curves = Curves(paths.scratch)
    system.ask(
        guest.subject,
        [questions],
        lambda done: curves.progress(done, len(questions)),
        [partial(likelihood.measure, guest.subject.asking.template), golden.measure],
    )
    metrics = _metrics(system, chosen) | {
        "perplexity": perplexities(likelihood.rows),
        "records": len(records),
        "test_split": split_hashes(records, chosen).numbers(),
        "likelihood_sha256": records_sha256(test),
        "seconds": {system.name: system.seconds},
        "machine": describe_machine(guest.subject.asking.device),
    }
    if golden.objection:
        metrics["golden_objection"] = golden.objection
    with output_folders(paths.rescore_report) as (report,):
        write_metrics(report, metrics)
        write_predictions(report / PREDICTIONS_FILE, system.predictions)
        write_likelihoods(report / LIKELIHOODS_FILE, likelihood.rows)


@dataclass
class _GoldenTest:
    """Whether a bundle's model still answers its golden prompts; `objection` says how not."""

    bundle: Path
    asking: PromptSettings
    objection: str | None = None

    def measure(self, name: str, language_model: LanguageModel) -> None:
        """Ask a model, and go on where it answers otherwise: it is scored as it answers now."""
        template = self.asking.template(language_model.tokenizer)
        size = self.asking.batch_size
        try:
            check_golden_model(self.bundle, name, language_model, template, size)
        except ConfigError as error:
            self.objection = error.message


def _bundle_model(path: Path) -> tuple[Path, ServedModel]:
    bundle, model = bundle_model(path)
    if bundle is None:
        raise ConfigError(
            f"--bundle {path} is no release bundle (no {SETTINGS}); only what was released "
            "can be scored again as it is served",
            "name a bundle that a night made, e.g. data/bundle, or data/bundle/student",
        )
    return bundle, model


def _metrics(system: SystemResult, params: EvaluationParams) -> dict[str, Any]:
    """The numbers of its one system in its one mode, named as evaluation names them."""
    rows, mode = system.predictions, system.predictions[0].mode
    means = {name: sum(row.score(name) for row in rows) / len(rows) for name in SCORE_NAMES}
    size = {"parameters": system.parameters, "megabytes": system.megabytes}
    return {
        "systems": {system.name: {mode: means | row_metrics(rows, params.abstentions)}},
        "primary": {"mode": mode, "metric": params.primary_metric},
        "sizes": {system.name: size | speed(rows, system.first_group_seconds)},
    }


if __name__ == "__main__":
    sys.exit(run_stage("evaluation.rescoring", Params, Paths, run))
