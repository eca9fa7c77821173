"""A LoRA adapter trained on the tokens, on an NF4 base (QLoRA) or a float one."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copytree

import torch
from torch import nn

from tasks.finetuning.adapter import keep_start, make_trainable, save_trained
from tasks.finetuning.documents import (
    DocumentsResult,
    TrainingBatches,
    documents_loss,
    documents_result,
    read_training_batches,
)
from tasks.finetuning.params import FinetuningParams, Params
from tasks.finetuning.preferences import (
    SERIES,
    PairBatches,
    PreferencesResult,
    check_packed,
    learn_preferences,
    read_pair_batches,
)
from tasks.models.linear_maps import read_shares
from tasks.models.loading import LanguageModel, load_for_training, prepare_device, trained_form
from tasks.models.manifest import ModelManifest
from tasks.models.provenance import write_provenance
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.sequences.examples import read_weights
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.pages import plain_markdown
from tasks.training.batches import count_feedback, tokens_by_source
from tasks.training.checkpoints import drop_checkpoints
from tasks.training.diagnostics import Fit, fit_of, plot_losses
from tasks.training.loop import TrainingResult, train, training_identity


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    tokens: Path
    base: Path
    model_store: Path
    scratch: Path
    adapter: Path = output()
    finetuning_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Train the adapter and write it with its report."""
    settings = params.finetuning
    prompt = verified(paths.tokens) / PROMPT
    device = prepare_device(params.compute)
    size = params.compute.micro_batch_tokens
    batches = read_training_batches(paths.tokens, settings, max_tokens=size)
    pairs = read_pair_batches(paths.tokens, settings, max_tokens=size)
    base = _base(params, paths, device)
    form = trained_form(params.models.numeric_form, dequantized=params.compute.dequantized_base)
    template = read_prompt_bundle(prompt, base.tokenizer)
    model = make_trainable(base, settings)
    keep_start(model, settings, paths.scratch / "start")
    check_packed(base.model, pairs, batches.groups)
    batches = batches.exact_with(base.model)
    identity = training_identity(settings, base.digest, form, paths.tokens)
    learned = _learn(model, batches, pairs, settings, paths.scratch, identity)
    with output_folders(paths.adapter, paths.finetuning_report) as (adapter, report):
        save_trained(model, settings, paths.base, adapter, paths.scratch / "start")
        copytree(prompt, adapter / PROMPT)
        weights = ModelManifest.read(paths.base).folder(paths.model_store)
        write_provenance(
            adapter,
            base=base.digest,
            numeric_form=form,
            template=template.digest,
            tokens=paths.tokens,
            params=settings,
            shares=read_shares(weights, adapter, form),
        )
        _write_report(settings, paths, learned, batches.answers, report)
    for folder in (paths.scratch, paths.scratch / SERIES):
        drop_checkpoints(folder)


def _base(params: Params, paths: Paths, device: torch.device) -> LanguageModel:
    """Return the base as it is trained on."""
    return load_for_training(
        paths.base,
        paths.model_store,
        device,
        numeric_form=params.models.numeric_form,
        dtype=params.finetuning.dtype,
        dequantized=params.compute.dequantized_base,
    )


@dataclass(frozen=True)
class Learned:
    """What a training came to; documents and preferences are None where none were learned."""

    answers: TrainingResult
    documents: DocumentsResult | None
    preferences: PreferencesResult | None


def _learn(
    model: nn.Module,
    batches: TrainingBatches,
    pairs: PairBatches,
    settings: FinetuningParams,
    scratch: Path,
    identity: str,
) -> Learned:
    """Train a model in place: on documents and answers, then on preferences."""
    before = documents_loss(model, batches)
    first, second = (
        sum(batch.computed_tokens for batch in group) for group in (batches.learned, pairs.learned)
    )
    until = first / max(first + second, 1)
    answers = train(
        model, batches.learned, batches.held_out, summed_cross_entropy, settings, scratch=scratch,
        identity=identity, share=(0.0, until), leading=len(batches.documents), leading_loss=before,
    )  # fmt: skip
    preferences = learn_preferences(
        model, pairs, batches.held_out, settings, scratch=scratch, identity=identity,
        share=(until, 1.0),
    )  # fmt: skip
    documents = documents_result(batches, before, documents_loss(model, batches))
    return Learned(answers, documents, preferences)


def _write_report(
    settings: FinetuningParams,
    paths: Paths,
    learned: Learned,
    answers: Sequence[Batch],
    report: Path,
) -> None:
    """Write numbers, curves and text; `answers` are the batches that were learned of them."""
    sources = tokens_by_source(answers, read_weights(paths.tokens))
    feedback = count_feedback(answers)
    fit = fit_of(paths.scratch, learned.answers.initial_validation_loss)
    parts: dict[str, object] = {"tokens_by_source": sources, "feedback": feedback}
    if learned.documents:
        parts["documents"] = asdict(learned.documents)
    if learned.preferences:
        parts["preferences"] = asdict(learned.preferences)
    told = {name: part for name, part in parts.items() if part}
    write_metrics(report, asdict(learned.answers) | {"fit": asdict(fit)} | told)
    plot_losses(paths.scratch, report / "loss.png", "Fine-tuning")
    text = _report(settings, learned, fit, sources, feedback)
    (report / "report.md").write_text(plain_markdown(text), encoding="utf-8")


def _report(
    settings: FinetuningParams,
    learned: Learned,
    fit: Fit,
    sources: Mapping[str, int],
    feedback: Mapping[str, int],
) -> str:
    result = learned.answers
    shares = ", ".join(f"{name} {tokens}" for name, tokens in sources.items())
    by_source = f"Tokens by source: {shares}.\n\n" if sources else ""
    if feedback:
        times = feedback["examples"] / feedback["rows"]
        by_source += f"Feedback: {feedback['rows']} rows, each learned {times:.1f} times.\n\n"
    by_source += "".join(
        f"{one.text}\n\n" for one in (learned.documents, learned.preferences) if one
    )
    return (
        f"# Fine-tuning\n\n{settings.method}, rank {settings.rank}: {result.steps} steps over "
        f"{result.examples} examples of {result.tokens} tokens, {result.supervised_tokens} of them "
        f"learned; {result.computed_tokens} went through the model, shared beginnings once.\n\n"
        f"{by_source}"
        f"Validation loss {result.initial_validation_loss:.3f} before, "
        f"{result.best_validation_loss:.3f} at its best (nats per learned token).\n\n"
        f"Fit: {fit.text}\n\n"
        "![losses](loss.png)\n"
    )


if __name__ == "__main__":
    sys.exit(run_stage("finetuning", Params, Paths, run))
