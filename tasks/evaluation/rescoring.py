"""Score one release bundle alone on a test split: answers, and the whole split's likelihood.

Answers are in the primary mode. --bundle is BUNDLE (its adapter) or BUNDLE/student, asked as it is
served: its prompt, passages and numeric form are its own.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.answering.golden import check_golden_model
from tasks.answering.release_bundle import SETTINGS
from tasks.evaluation.aggregates import throughput
from tasks.evaluation.params import EvaluationParams
from tasks.evaluation.requests import choose_records, primary_requests
from tasks.evaluation.system_run import (
    SystemResult,
    describe_machine,
    measure_likelihoods,
    perplexities,
    run_system,
)
from tasks.evaluation.systems import System, bundle_model, learned_records, served_system
from tasks.evaluation.task_scoring import TaskScoring, row_means, task_scoring
from tasks.generation.greedy_decoding import generate
from tasks.models.loading import LanguageModel, prepare_device
from tasks.models.memory import begin_peak
from tasks.prompting.files import PROMPT
from tasks.records.language import AUTO, data_language
from tasks.records.predictions import (
    LIKELIHOODS_FILE,
    PREDICTIONS_FILE,
    Prediction,
    write_likelihoods,
    write_predictions,
)
from tasks.records.schema import Record, ServedModel, read_records
from tasks.records.text import hash_share
from tasks.scoring.identity import SplitHashes, records_sha256
from tasks.sequences.likelihood import AnswerLikelihood
from tasks.stage.command import output, run_stage
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.params import ComputeParams, StageParams
from tasks.task_types.table import TrainedTask


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
    curated, compute = verified(paths.curated), params.compute
    chosen = params.evaluation.in_language(data_language(AUTO, curated))
    device = prepare_device(compute)
    test = read_records(curated / "test.jsonl")
    share = partial(hash_share, salt=chosen.salt)
    bundle, model = _bundle_model(paths.bundle)
    task = TrainedTask.read(bundle / model / PROMPT)
    chosen_records = choose_records(test, chosen.records, share, split="test")
    records, asked_test = task.asked(chosen_records), task.asked(test)
    answers = partial(generate, batch_size=compute.generation_batch)
    served = served_system(model, bundle, model, paths.model_store, generate=answers, device=device)
    assert served.retriever is not None  # a bundle has its own
    requests = primary_requests(records, served.retriever, chosen.primary_mode)
    scoring = task_scoring(task, chosen)
    curves = Curves(paths.scratch)
    result = run_system(
        served.system,
        [requests],
        score=scoring.score,
        begin_peak=partial(begin_peak, device),
        measure=partial(_measure, bundle, served.system, asked_test, compute),
        progress=lambda done: curves.progress(done, len(requests)),
    )
    predictions = result.predictions(model)
    likelihoods = [row.named(model) for row in result.measured.likelihoods]
    metrics = _metrics(result, predictions, scoring) | {
        "perplexity": perplexities(likelihoods),
        "records": len(chosen_records),
        "test_split": SplitHashes(records_sha256(records), scoring.sha256).numbers(),
        "likelihood_sha256": records_sha256(asked_test),
        "learned": learned_records(bundle, test),
        "seconds": {model: result.seconds},
        "machine": describe_machine(device),
    }
    if result.measured.golden_objection:
        metrics["golden_objection"] = result.measured.golden_objection
    with output_folders(paths.rescore_report) as (report,):
        write_metrics(report, metrics)
        write_predictions(report / PREDICTIONS_FILE, predictions)
        write_likelihoods(report / LIKELIHOODS_FILE, likelihoods)


@dataclass(frozen=True)
class _Measured:
    """What is found of a model beside its answers; the objection is None where there is none."""

    likelihoods: tuple[AnswerLikelihood, ...]
    golden_objection: str | None


def _measure(
    bundle: Path,
    system: System,
    test: Sequence[Record],
    compute: ComputeParams,
    model: LanguageModel,
) -> _Measured:
    template = system.prompt.template
    return _Measured(
        measure_likelihoods(template, test, compute.micro_batch_tokens, model),
        _golden_objection(bundle, system, model, compute.generation_batch),
    )


def _golden_objection(
    bundle: Path, system: System, model: LanguageModel, batch_size: int
) -> str | None:
    """Return how a bundle's model answers its golden prompts otherwise; None where it does not.

    Nothing is refused: the model is scored as it answers now.
    """
    template = system.prompt.template(model.tokenizer)
    try:
        check_golden_model(bundle, system.name, model, template, batch_size)
    except ConfigError as error:
        return error.message
    return None


def _bundle_model(path: Path) -> tuple[Path, ServedModel]:
    bundle, model = bundle_model(path)
    if bundle is None:
        raise ConfigError(
            f"--bundle {path} is no release bundle (no {SETTINGS}); only what was released "
            "can be scored again as it is served",
            "name a bundle that a night made, e.g. data/bundle, or data/bundle/student",
        )
    return bundle, model


def _metrics(
    result: SystemResult[_Measured], rows: Sequence[Prediction], scoring: TaskScoring
) -> dict[str, Any]:
    """Return the numbers of the one system in its one mode, named as evaluation names them."""
    mode = rows[0].mode
    means = row_means(scoring.names, rows)
    size = {"parameters": result.parameters, "megabytes": result.megabytes}
    return {
        "systems": {result.key: {mode: means | scoring.further(rows)}},
        "primary": {"mode": mode, "metric": scoring.metric},
        "sizes": {result.key: size | throughput(rows, result.first_group_seconds)},
    }


if __name__ == "__main__":
    sys.exit(run_stage("evaluation.rescoring", Params, Paths, run))
