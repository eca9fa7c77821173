"""A LoRA adapter trained on the tokens, on an NF4 base (QLoRA) or a float one."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copytree

import torch

from tasks.finetuning.adapter import keep_start, make_trainable, save_trained
from tasks.finetuning.params import Params
from tasks.models.linear_maps import read_shares
from tasks.models.loading import LanguageModel, load_for_training, prepare_device, trained_form
from tasks.models.manifest import ModelManifest
from tasks.models.provenance import write_provenance
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.sequences.examples import read_weights
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.pages import plain_markdown
from tasks.training.batches import count_feedback, read_batches, tokens_by_source
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
    batches, held_out = read_batches(
        paths.tokens, settings, max_tokens=params.compute.micro_batch_tokens
    )
    base = _base(params, paths, device)
    dequantized = params.compute.dequantized_base
    form = trained_form(params.models.numeric_form, dequantized=dequantized)
    template = read_prompt_bundle(prompt, base.tokenizer)
    sources = tokens_by_source(batches, read_weights(paths.tokens))
    feedback = count_feedback(batches)
    model = make_trainable(base, settings)
    keep_start(model, settings, paths.scratch / "start")
    batches, held_out = prepare_packs(base.model, batches, held_out)
    result = train(
        model,
        batches,
        held_out,
        summed_cross_entropy,
        settings,
        scratch=paths.scratch,
        identity=training_identity(settings, base.digest, form, paths.tokens),
    )
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
        _write_report(params, paths, result, sources, feedback, report)
    drop_checkpoints(paths.scratch)


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


def _write_report(
    params: Params,
    paths: Paths,
    result: TrainingResult,
    sources: Mapping[str, int],
    feedback: Mapping[str, int],
    report: Path,
) -> None:
    fit = fit_of(paths.scratch, result.initial_validation_loss)
    parts = {"tokens_by_source": dict(sources), "feedback": dict(feedback)}
    told = {name: part for name, part in parts.items() if part}
    write_metrics(report, asdict(result) | {"fit": asdict(fit)} | told)
    plot_losses(paths.scratch, report / "loss.png", "Fine-tuning")
    text = _report(params, result, fit, sources, feedback)
    (report / "report.md").write_text(plain_markdown(text), encoding="utf-8")


def _report(
    params: Params,
    result: TrainingResult,
    fit: Fit,
    sources: Mapping[str, int],
    feedback: Mapping[str, int],
) -> str:
    settings = params.finetuning
    shares = ", ".join(f"{name} {tokens}" for name, tokens in sources.items())
    by_source = f"Tokens by source: {shares}.\n\n" if sources else ""
    if feedback:
        times = feedback["examples"] / feedback["rows"]
        by_source += f"Feedback: {feedback['rows']} rows, each learned {times:.1f} times.\n\n"
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
