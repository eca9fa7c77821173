"""A student with fewer layers, started from the teacher and taught its distributions."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import copytree

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.distillation.objective import blended_loss, forward_kl
from tasks.distillation.params import DistillationParams, Params
from tasks.distillation.pruning import block_influence, choose_layers, prune
from tasks.lm.batches import Batch, read_batches
from tasks.lm.checkpoints import drop_checkpoints
from tasks.lm.conversion import ModelManifest
from tasks.lm.curves import fit_of, plot_losses
from tasks.lm.exactness import prepare_packs
from tasks.lm.fit import Fit
from tasks.lm.losses import SummedLoss
from tasks.lm.models import LanguageModel, load_adapted, prepare_device
from tasks.lm.packing import Pack, packed_logits
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.lm.prompts import PromptTemplate
from tasks.lm.provenance import write_provenance
from tasks.lm.trainer import validation_loss
from tasks.lm.training import TrainingResult, train, training_identity
from tasks.records.prompt_files import PROMPT
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    tokens: Path
    base: Path
    model_store: Path
    adapter: Path
    scratch: Path
    student: Path = output()
    distillation_report: Path = output()


@dataclass(frozen=True)
class Distillation:
    """What the report tells: which layers stayed, and how close the student came.

    Divergences are mean KL(teacher || student) per held-out token at temperature 1, in nats.
    """

    kept_layers: list[int]
    influence: list[float]
    teacher_parameters: int
    student_parameters: int
    divergence_before: float
    divergence_after: float
    training: TrainingResult
    fit: Fit


def run(params: Params, paths: Paths) -> None:
    """Distil the student and write it with its report."""
    verified(paths.tokens)
    settings, form = params.distillation, params.models.numeric_form
    device = prepare_device(params.compute)
    teacher = load_adapted(
        paths.base, paths.model_store, paths.adapter, numeric_form=form, device=device
    )
    template = read_prompt_kit(paths.adapter / PROMPT, teacher.tokenizer)
    batches, held_out = prepare_packs(
        teacher.model,
        *read_batches(paths.tokens, settings, max_tokens=params.compute.micro_batch_tokens),
    )
    influence = block_influence(teacher.model, _some_packs(batches, settings.influence_examples))
    kept = choose_layers(influence, settings.student_layers)
    LOGGER.info("layers kept: %s", kept)
    student = _trainable(prune(teacher.model, kept))
    before = validation_loss(student, held_out, _divergence(teacher.model))
    result = train(
        student,
        batches,
        held_out,
        _objective(teacher.model, settings),
        settings,
        scratch=paths.scratch,
        identity=training_identity(settings, teacher.digest, form, paths.tokens),
    )
    distillation = Distillation(
        kept,
        influence,
        teacher.model.num_parameters(),
        student.num_parameters(),
        before,
        validation_loss(student, held_out, _divergence(teacher.model)),
        result,
        fit_of(paths.scratch, result.initial_validation_loss),
    )
    _write(params, paths, student, teacher, template, distillation)


def _some_packs(batches: Sequence[Batch], examples: int) -> list[Pack]:
    """The first packs, until they hold this many examples."""
    chosen: list[Pack] = []
    for pack in (pack for batch in batches for pack in batch.packs):
        if sum(item.examples for item in chosen) >= examples:
            break
        chosen.append(pack)
    return chosen


def _trainable(student: PreTrainedModel) -> PreTrainedModel:
    """The student with its layers to be trained; the embeddings stay the teacher's."""
    student.requires_grad_(True)
    student.get_input_embeddings().requires_grad_(False)
    return student


def _objective(teacher: PreTrainedModel, settings: DistillationParams) -> SummedLoss:
    def loss(student: nn.Module, pack: Pack) -> Tensor:
        return blended_loss(
            packed_logits(student, pack),
            _teach(teacher, pack),
            pack.targets,
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
        )

    return loss


def _divergence(teacher: PreTrainedModel) -> SummedLoss:
    def loss(student: nn.Module, pack: Pack) -> Tensor:
        student_logits = packed_logits(student, pack)
        return forward_kl(student_logits, _teach(teacher, pack), temperature=1.0).sum()

    return loss


def _teach(teacher: PreTrainedModel, pack: Pack) -> Tensor:
    with torch.no_grad():
        return packed_logits(teacher, pack)


def _write(
    params: Params,
    paths: Paths,
    student: PreTrainedModel,
    teacher: LanguageModel,
    template: PromptTemplate,
    distillation: Distillation,
) -> None:
    student.set_attn_implementation("sdpa")
    student.to(getattr(torch, params.distillation.saved_dtype))
    with output_folders(paths.student, paths.distillation_report) as (folder, report):
        student.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
        copytree(paths.adapter / PROMPT, folder / PROMPT)
        write_provenance(
            folder,
            base=ModelManifest.read(paths.base).digest,
            numeric_form=params.models.numeric_form,
            teacher=teacher.digest,
            template=template.digest,
            tokens=paths.tokens,
            params=params.distillation,
        )
        write_metrics(report, asdict(distillation))
        plot_losses(paths.scratch, report / "loss.png", "Distillation")
        (report / "report.md").write_text(_report(distillation), encoding="utf-8")
    drop_checkpoints(paths.scratch)


def _report(found: Distillation) -> str:
    total = len(found.influence)
    dropped = [number for number in range(total) if number not in found.kept_layers]
    share = found.student_parameters / found.teacher_parameters
    return (
        f"# Distillation\n\n{len(found.kept_layers)} of {total} layers kept, {dropped} left out as "
        f"the least influential; {found.student_parameters / 1e6:.1f} million parameters, "
        f"{share:.0%} of the teacher's.\n\nMean KL(teacher || student) on held-out tokens: "
        f"{found.divergence_before:.3f} nats before, {found.divergence_after:.3f} after "
        f"{found.training.steps} steps over {found.training.tokens} tokens; "
        f"{found.training.computed_tokens} went through the model "
        f"(shared beginnings once).\n\nFit: {found.fit.text}\n\n"
        "![losses](loss.png)\n"
    )


if __name__ == "__main__":
    sys.exit(run_stage("distillation", Params, Paths, run))
