"""Score base, adapter and students, and what --system names, in every mode of asking.

A --system is a release bundle, asked as it is served, or a model folder, asked as tonight's are.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tasks.embedding.adapter import MANIFEST_FILE
from tasks.evaluation.aggregates import by_system_and_mode, system_metrics
from tasks.evaluation.comparisons import ComparisonSettings, compare_all
from tasks.evaluation.evaluator import (
    EvaluationRun,
    Job,
    Jobs,
    RunRules,
    evaluate_systems,
    measure_system,
)
from tasks.evaluation.forgetting import (
    compare_general,
    measure_general,
    read_instructions,
    read_texts,
)
from tasks.evaluation.label_report import LabelReport
from tasks.evaluation.linear_baseline import linear_predictions
from tasks.evaluation.output import Evidence, write_evaluation
from tasks.evaluation.params import Params
from tasks.evaluation.prompt_variants import VariantChoice, choose_variant, make_variants
from tasks.evaluation.requests import (
    NightRequests,
    Request,
    RequestLimits,
    Retriever,
    choose_records,
    count_requests,
    primary_mode,
    primary_requests,
    read_injections,
    split_by_mode,
)
from tasks.evaluation.retrieval_metrics import index_weights, retrieval
from tasks.evaluation.student_choice import rank_offers
from tasks.evaluation.system_run import (
    describe_machine,
    measure_likelihoods,
    no_measure,
    perplexities,
    run_system,
)
from tasks.evaluation.systems import (
    ExternalSystem,
    ModelFiles,
    PromptSettings,
    System,
    open_external_systems,
    refuse_learned,
)
from tasks.evaluation.task_scoring import TaskScoring, task_scoring
from tasks.generation.greedy_decoding import generate
from tasks.models.loading import prepare_device
from tasks.models.memory import begin_peak
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.language import data_language
from tasks.records.predictions import (
    Prediction,
)
from tasks.records.schema import FEEDBACK_SPLIT, Record, read_records
from tasks.records.text import hash_share
from tasks.retrieval.index import Index
from tasks.scoring.identity import SplitHashes
from tasks.stage.command import NamedPath, named, output, run_stage
from tasks.stage.metrics import Curves
from tasks.stage.outputs import verified
from tasks.statistics.bootstrap import Interval, bootstrap_mean, wilson
from tasks.statistics.significance import Inference
from tasks.task_types.answer import ANSWER
from tasks.task_types.classify import LINEAR
from tasks.task_types.table import TrainedTask


@dataclass(frozen=True)
class Paths:
    """What evaluation reads and writes."""

    curated: Path
    base: Path
    retriever: Path
    model_store: Path
    adapter: Path
    students: Path
    index: Path
    scratch: Path
    evaluation_report: Path = output()
    system: tuple[NamedPath, ...] = named()


@dataclass(frozen=True)
class _Prompts:
    """How the night's own systems are prompted: as they were trained, the base in its best way."""

    trained: PromptSettings
    base: PromptSettings
    choice: VariantChoice


def run(params: Params, paths: Paths) -> None:
    """Write metrics.json, predictions.parquet, likelihoods.parquet, the report and its plots."""
    device = prepare_device(params.compute)
    language = data_language(params.prompting.language, verified(paths.curated))
    task = TrainedTask.read(verified(paths.adapter) / PROMPT)
    params = params.model_copy(
        update={"evaluation": params.evaluation.in_language(language).of_task(task.type)}
    )
    scoring = task_scoring(task, params.evaluation)
    asked = _asked(params, paths, device, scoring)
    rules = _rules(params, asked.requests, device, scoring)
    models = _models(params, paths, device)
    prompts = _prompts(params, paths, models, asked.retriever, rules, task)
    jobs = _jobs(params, paths, models, prompts, asked)
    baseline = _baseline(task, paths, asked, rules)  # first: what it refuses is told in seconds
    ran = evaluate_systems(jobs, rules, Curves(paths.scratch).progress)
    predictions = [*ran.predictions(), *baseline]
    likelihoods = ran.likelihoods()
    external = [job.system.name for job in jobs.external]
    found = _metrics(params, ran, predictions, rules, external, scoring)
    about = _about(asked, prompts, device)
    metrics = (
        found
        | about
        | {
            "test_split": SplitHashes(asked.sha256, scoring.sha256).numbers(),
            "perplexity": perplexities(likelihoods),
            "seconds": {"retrieval": asked.retrieval_seconds} | ran.seconds(),
        }
    )
    labels = None
    if task.name != ANSWER.name:
        metrics["task"] = task.numbers()
    if task.labels:
        labels = LabelReport.of(task.labels, by_system_and_mode(predictions), rules.mode)
    evidence = Evidence(metrics, predictions, likelihoods, _shown(jobs), labels)
    write_evaluation(paths.evaluation_report, evidence)


def _baseline(
    task: TrainedTask, paths: Paths, asked: NightRequests, rules: RunRules
) -> list[Prediction]:
    """Return what the baseline of task classify answers, which other tasks lack."""
    if not task.labels:
        return []
    requests = split_by_mode(asked.requests, rules.mode)[0]
    known = set(task.labels)  # a correction may be no label: tokenization leaves it out, too
    train = [record for record in _read(paths, "train") if record.answer in known]
    return linear_predictions(train, requests)


def _asked(
    params: Params, paths: Paths, device: torch.device, scoring: TaskScoring
) -> NightRequests:
    chosen = params.evaluation
    share = partial(hash_share, salt=chosen.salt)
    records = choose_records(_read(paths, chosen.split), chosen.records, share, split=chosen.split)
    retriever = Retriever.of(
        Index.load(verified(paths.index)),
        params.prompting.passages,
        embedder=verified(paths.retriever) / MANIFEST_FILE,
        store=paths.model_store,
        device=device,
    )
    limits = RequestLimits(
        chosen.distractor_records, chosen.injection_records, chosen.abstentions[0]
    )
    if scoring.abstains is None:
        limits = RequestLimits(0, 0, "", "no answer of this task can abstain")
    return NightRequests.of(records, _held_feedback(params, paths), retriever, limits)


def _held_feedback(params: Params, paths: Paths) -> list[Record]:
    """Return the feedback that is asked beside the test split; most nights hold none out."""
    chosen = params.evaluation
    if chosen.split != "test" or not (paths.curated / f"{FEEDBACK_SPLIT}.jsonl").exists():
        return []
    share = partial(hash_share, salt=chosen.salt)
    return choose_records(_read(paths, FEEDBACK_SPLIT), chosen.records, share, split=FEEDBACK_SPLIT)


def _rules(
    params: Params, requests: Sequence[Request], device: torch.device, scoring: TaskScoring
) -> RunRules:
    chosen = params.evaluation
    return RunRules(
        mode=primary_mode(chosen.primary_mode, {request.mode for request in requests}),
        metric=scoring.metric,
        all_modes=chosen.all_modes,
        score=scoring.score,
        begin_peak=partial(begin_peak, device),
        rank=partial(rank_offers, params=chosen),
    )


def _models(params: Params, paths: Paths, device: torch.device) -> ModelFiles:
    return ModelFiles(
        paths.base,
        paths.model_store,
        verified(paths.adapter),
        verified(paths.students),
        params.models.numeric_form,
        device,
    )


def _prompts(
    params: Params,
    paths: Paths,
    models: ModelFiles,
    retriever: Retriever,
    rules: RunRules,
    task: TrainedTask,
) -> _Prompts:
    kit = paths.adapter / PROMPT
    answer = partial(
        generate,
        max_new_tokens=params.prompting.max_new_tokens,
        batch_size=params.compute.generation_batch,
    )
    trained = PromptSettings(partial(read_prompt_bundle, kit), answer, labels=task.spoken)
    variants = make_variants(
        params.evaluation.variants, trained, kit, partial(_read, paths, "train")
    )
    choice = choose_variant(
        variants,
        params.evaluation.variants.compared,
        [models.system(name, trained) for name in ("base", "adapter")],
        partial(_validation_requests, params, paths, retriever),
        rules.metric,
        partial(_mean_score, params, rules),
    )
    return _Prompts(trained, variants.prompts[choice.base], choice)


def _read(paths: Paths, split: str) -> list[Record]:
    return read_records(paths.curated / f"{split}.jsonl")


def _validation_requests(params: Params, paths: Paths, retriever: Retriever) -> list[Request]:
    """Return what prompt variants are compared on."""
    chosen = params.evaluation
    share = partial(hash_share, salt=chosen.salt)
    records = choose_records(
        _read(paths, "validation"), chosen.variants.records, share, split="validation"
    )
    return primary_requests(records, retriever, chosen.primary_mode)


def _mean_score(
    params: Params, rules: RunRules, system: System, requests: Sequence[Request]
) -> Interval:
    """Run a system once, on requests of one mode, and return the mean of the primary metric."""
    result = run_system(
        system, [requests], score=rules.score, begin_peak=rules.begin_peak, measure=no_measure
    )
    return bootstrap_mean(
        result.scores(requests[0].mode, rules.metric),
        confidence=params.evaluation.confidence,
        resamples=params.evaluation.resamples,
        seed=params.evaluation.seed,
    )


def _jobs(
    params: Params, paths: Paths, models: ModelFiles, prompts: _Prompts, asked: NightRequests
) -> Jobs:
    """Return what each system is asked, and what is measured of it.

    Likelihoods are taken with the trained prompt, so that only the weights differ; an external
    system keeps its own.
    """
    most = params.compute.micro_batch_tokens
    follow = partial(
        generate,
        max_new_tokens=params.evaluation.instruction_tokens,
        batch_size=params.compute.generation_batch,
    )
    general = partial(measure_general, read_texts(), read_instructions(), follow, most)
    trained = prompts.trained
    likely = partial(measure_likelihoods, trained.template, asked.records, most)
    whole = partial(measure_system, likely, general)
    refuse_learned(paths.system, asked.records)
    external = open_external_systems(
        paths.system, paths.model_store, trained, paths.adapter / PROMPT, device=models.device
    )
    return Jobs(
        base=Job(models.system("base", prompts.base), asked.requests, whole),
        adapter=Job(models.system("adapter", trained), asked.requests, whole),
        students={
            name: {
                role: Job(system, asked.requests, partial(measure_system, likely, None))
                for role, system in pair.items()
            }
            for name, pair in models.students(trained).items()
        },
        external=tuple(_external_job(one, asked, most) for one in external),
    )


def _external_job(one: ExternalSystem, asked: NightRequests, max_tokens: int) -> Job:
    template = one.system.prompt.template
    likely = partial(measure_likelihoods, template, asked.records, max_tokens)
    requests = asked.requests if one.retriever is None else asked.from_other(one.retriever)
    return Job(one.system, requests, partial(measure_system, likely, None))


def _about(asked: NightRequests, prompts: _Prompts, device: torch.device) -> dict[str, Any]:
    """Return what was asked, how well it was retrieved, and where."""
    indexed = Counter(passage.document_id for passage in asked.retriever.index.passages)
    return {
        "retrieval": retrieval(asked.records, asked.found, indexed)
        | index_weights(asked.retriever.index.settings),
        "asked": count_requests(asked.requests, asked.limits),
        "prompts": prompts.choice.numbers(),
        "records": len(asked.records),
        "machine": describe_machine(device),
    }


def _metrics(
    params: Params,
    ran: EvaluationRun,
    predictions: Sequence[Prediction],
    rules: RunRules,
    external: Sequence[str],
    scoring: TaskScoring,
) -> dict[str, Any]:
    """Return what the answers are worth, system by system and in comparison."""
    chosen = params.evaluation
    grouped = by_system_and_mode(predictions)
    base, adapter = (found.measured.general for found in ran.results[:2])
    assert base
    assert adapter
    baselines = tuple(name for name in grouped if name == LINEAR)
    settings = ComparisonSettings(
        rules.metric, rules.mode, ran.offers[0].system, tuple(external), baselines
    )
    inference = Inference(chosen.confidence, chosen.power, chosen.resamples, chosen.seed)
    compared = compare_all(grouped, settings, read_injections(), inference)
    return {
        **system_metrics(
            ran.in_report_order(),
            grouped,
            rules.mode,
            scoring.summarise,
            scoring.abstains,
            partial(wilson, confidence=chosen.confidence),
        ),
        "primary": {
            "mode": rules.mode,
            "metric": rules.metric,
            "confidence": chosen.confidence,
        },
        "offered": ran.offers[0].numbers(),
        "offers": {offer.name: offer.numbers() for offer in ran.offers},
        "forgetting": compare_general(base, adapter),
        **compared.numbers(),
    }


def _shown(jobs: Jobs) -> dict[str, str]:
    """Return the texts of all passages that prompts held, by id; tonight's index comes last."""
    return {
        passage.id: passage.shown
        for job in (*jobs.external, jobs.base)
        for request in job.requests
        for passage in request.passages
    }


if __name__ == "__main__":
    sys.exit(run_stage("evaluation", Params, Paths, run))
