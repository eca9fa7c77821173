"""Score base, adapter and students, and what --system names, in every mode of asking.

A --system is a release bundle, asked as it is served, or a model folder, asked as tonight's are.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tasks.evaluation.aggregates import MetricModules, by_system_and_mode, row_metrics, speed
from tasks.evaluation.comparisons import (
    abstention_shares,
    compare,
    compare_external,
    intervals,
    mode_gains,
    primary_mode,
    slices,
)
from tasks.evaluation.evaluator import (
    EvaluationRun,
    Measurements,
    PromptChoices,
    Schedule,
    run_systems,
    schedule_systems,
)
from tasks.evaluation.forgetting import (
    ForgettingTest,
    compare_general,
    read_instructions,
    read_texts,
)
from tasks.evaluation.identity import split_hashes
from tasks.evaluation.params import EvaluationParams, Params
from tasks.evaluation.prompt_variants import VariantChoice, choose_variant, make_variants
from tasks.evaluation.report import write_report
from tasks.evaluation.requests import (
    Request,
    RequestBuilder,
    Retriever,
    choose_records,
    count_requests,
    obedience,
    primary_requests,
    read_injections,
)
from tasks.evaluation.retrieval_metrics import retrieval
from tasks.evaluation.system_run import (
    LikelihoodTest,
    PromptSettings,
    SystemResult,
    describe_machine,
    perplexities,
)
from tasks.evaluation.systems import ModelFiles, open_external_systems
from tasks.models.loading import prepare_device
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.predictions import (
    LIKELIHOODS_FILE,
    PREDICTIONS_FILE,
    Likelihood,
    Prediction,
    write_likelihoods,
    write_predictions,
)
from tasks.records.schema import Record, read_records
from tasks.retrieval.index import Index
from tasks.scoring.answer_scores import Metrics, null
from tasks.stage.command import NamedPath, named, output, run_stage
from tasks.stage.metrics import Curves, write_metrics
from tasks.stage.outputs import output_folders, verified

LOGGER = logging.getLogger(__name__)
OWN = ("base", "adapter")  # who is asked most


@dataclass(frozen=True)
class Paths:
    """What evaluation reads and writes."""

    curated: Path
    base: Path
    embedder: Path
    model_store: Path
    adapter: Path
    students: Path
    index: Path
    scratch: Path
    evaluation_report: Path = output()
    system: tuple[NamedPath, ...] = named()


def run(params: Params, paths: Paths) -> None:
    """Write metrics.json, predictions.parquet, likelihoods.parquet, the report and its plots."""
    device = prepare_device(params.compute)
    chosen = params.evaluation
    test = read_records(verified(paths.curated) / "test.jsonl")
    records = choose_records(test, chosen.records, chosen.salt, split="test")
    library = _library(params, paths, device)
    started = time.monotonic()
    found = library.find(records)
    retrieval_seconds = time.monotonic() - started
    tests = _tests(params, records, open_book=bool(library.index.passages))
    models = _models(params, paths)
    trained = _trained(params, paths, device)
    prompts, choice = _prompts(params, paths, models, library, trained)
    kit = paths.adapter / PROMPT
    guests = open_external_systems(paths.system, paths.model_store, trained, kit)
    programme = schedule_systems(models, guests, prompts, tests, library, found)
    asked = run_systems(programme, chosen, Curves(paths.scratch).progress)
    predictions = [row for system in asked.systems for row in system.predictions]
    likelihoods = [
        replace(row, system=asked.names.get(row.system, row.system))
        for row in tests.likelihood.rows
    ]
    names = [guest.subject.name for guest in guests]
    metrics = _metrics(predictions, asked, names, chosen) | {
        "offered": asked.offers[0].numbers(),
        "offers": {offer.name: offer.numbers() for offer in asked.offers},
        "retrieval": retrieval(
            records, found, Counter(passage.document for passage in library.index.passages)
        ),
        "asked": count_requests(programme.base.questions, chosen),
        "prompts": choice.numbers(),
        "perplexity": perplexities(likelihoods),
        "forgetting": compare_general(*map(tests.forgetting.found.__getitem__, OWN)),
        "records": len(records),
        "test_split": split_hashes(records, chosen).numbers(),
        "seconds": _seconds(asked.systems, retrieval_seconds),
        "machine": describe_machine(device),
    }
    _write(paths.evaluation_report, metrics, predictions, likelihoods, _shown(programme))


def _write(
    folder: Path,
    metrics: Mapping[str, Any],
    predictions: Sequence[Prediction],
    likelihoods: Sequence[Likelihood],
    shown: Mapping[str, str],
) -> None:
    with output_folders(folder) as (report,):
        write_metrics(report, metrics)
        write_predictions(report / PREDICTIONS_FILE, predictions)
        write_likelihoods(report / LIKELIHOODS_FILE, likelihoods)
        started = time.monotonic()
        write_report(report, metrics, predictions, shown)
        LOGGER.info(
            "report of %d answers written in %.1f s", len(predictions), time.monotonic() - started
        )


def _shown(programme: Schedule) -> dict[str, str]:
    """The texts of all passages that prompts held, by id; tonight's index before a guest's."""
    return {
        passage.id: passage.shown
        for sitting in (*programme.guests, programme.base)
        for question in sitting.questions
        for passage in question.passages
    }


def _library(params: Params, paths: Paths, device: torch.device) -> Retriever:
    """Tonight's index, from which its own systems are shown passages."""
    index = Index.load(verified(paths.index))
    count = params.prompting.passages
    return Retriever(index, paths.embedder, paths.model_store, device, count)


def _tests(params: Params, records: Sequence[Record], *, open_book: bool) -> Measurements:
    chosen, compute = params.evaluation, params.compute
    return Measurements(
        RequestBuilder(records, read_injections(), open_book, chosen),
        LikelihoodTest(records, compute.micro_batch_tokens),
        ForgettingTest(
            read_texts(),
            read_instructions(),
            chosen.instruction_tokens,
            compute.generation_batch,
            compute.micro_batch_tokens,
        ),
    )


def _models(params: Params, paths: Paths) -> ModelFiles:
    return ModelFiles(
        paths.base,
        paths.model_store,
        verified(paths.adapter),
        verified(paths.students),
        params.models.numeric_form,
    )


def _trained(params: Params, paths: Paths, device: torch.device) -> PromptSettings:
    """The prompt that the night's systems were trained with."""
    return PromptSettings(
        partial(read_prompt_bundle, paths.adapter / PROMPT),
        params.prompting.max_new_tokens,
        params.compute.generation_batch,
        device,
        None,
        tuple(params.evaluation.abstentions),
    )


def _prompts(
    params: Params, paths: Paths, models: ModelFiles, library: Retriever, trained: PromptSettings
) -> tuple[PromptChoices, VariantChoice]:
    """How the night's own systems are asked, and how the base's way was chosen."""
    chosen = params.evaluation

    def read(split: str) -> list[Record]:
        return read_records(paths.curated / f"{split}.jsonl")

    def questions() -> list[Request]:
        validation, count = read("validation"), chosen.variants.records
        records = choose_records(validation, count, chosen.salt, split="validation")
        return primary_requests(records, library, chosen)

    variants = make_variants(
        chosen.variants, trained, paths.adapter / PROMPT, lambda: read("train")
    )
    base, adapter = (models.subject(name, trained) for name in OWN)
    choice = choose_variant(variants, base, adapter, questions, chosen)
    return PromptChoices(trained, variants.askings[choice.base]), choice


def _metrics(
    predictions: Sequence[Prediction],
    asked: EvaluationRun,
    guests: Sequence[str],
    params: EvaluationParams,
) -> dict[str, Any]:
    modules = MetricModules()
    grouped = by_system_and_mode(predictions)
    mode = primary_mode(params.primary_mode, {row.mode for row in predictions})
    systems = {
        system: {name: _scores(modules, rows, params) for name, rows in modes.items()}
        for system, modes in grouped.items()
    }
    return {
        "systems": systems,
        "primary": {
            "mode": mode,
            "metric": params.primary_metric,
            "confidence": params.confidence,
        },
        "intervals": intervals(grouped, params),
        "comparisons": compare(grouped, mode, asked.offers[0].system, params)
        | compare_external(grouped, mode, guests, params),
        "sizes": {
            system.name: _size(system, grouped[system.name][mode]) for system in asked.systems
        },
        "slices": slices(grouped, mode, params),
        "injections": obedience(grouped, read_injections(), params),
        "gains": mode_gains(grouped, params),
        "abstention_shares": abstention_shares(grouped, params),
    }


def _scores(
    modules: MetricModules, rows: Sequence[Prediction], params: EvaluationParams
) -> Metrics:
    means = modules.compute([row.output for row in rows], [row.reference for row in rows])
    return {**means, **row_metrics(rows, params.abstentions)}


def _size(system: SystemResult, rows: Sequence[Prediction]) -> Metrics:
    """What a system takes, and its speed over these rows, which are its first group's."""
    name, peak = "peak_megabytes", system.peak_megabytes
    return {
        "parameters": system.parameters,
        "megabytes": system.megabytes,
        **(null(name, "this system does not tell it") if peak is None else {name: peak}),
        **speed(rows, system.first_group_seconds),
    }


def _seconds(systems: Sequence[SystemResult], retrieval_seconds: float) -> dict[str, float]:
    return {"retrieval": retrieval_seconds} | {item.name: item.seconds for item in systems}


if __name__ == "__main__":
    sys.exit(run_stage("evaluation", Params, Paths, run))
