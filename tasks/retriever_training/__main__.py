"""Train search's embedder on questions and their passages, and keep it where it finds more."""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.embedding.adapter import copy_embedder
from tasks.retriever_training.params import Params
from tasks.retriever_training.report import OFF, metrics, report
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders
from tasks.stage.pages import plain_markdown

if TYPE_CHECKING:
    from tasks.retriever_training.retriever import Outcome

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    curated: Path
    base: Path
    embedder: Path
    model_store: Path
    scratch: Path
    retriever: Path = output()
    retriever_training_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write the embedder that search uses, and the report on why it is this one."""
    settings = params.retriever_training
    found = _trained(params, paths) if settings.enabled else None
    with output_folders(paths.retriever, paths.retriever_training_report) as (folder, told):
        copy_embedder(paths.embedder if found is None else found.manifest, folder)
        write_metrics(told, metrics(found, settings))
        text = OFF if found is None else report(found, settings)
        (told / "report.md").write_text(plain_markdown(text), encoding="utf-8")
        if found is not None and found.learned is not None:
            from tasks.training.diagnostics import plot_losses

            plot_losses(paths.scratch, told / "loss.png", "Embedder", learned="question")
    if settings.enabled:
        _clean(paths.scratch)


def _trained(params: Params, paths: Paths) -> "Outcome":
    # It imports torch, which takes seconds; most nights train no embedder.
    from tasks.retriever_training.retriever import Inputs, train_retriever

    inputs = Inputs(paths.curated, paths.base, paths.embedder, paths.model_store, paths.scratch)
    found = train_retriever(params, inputs)
    LOGGER.info(
        "search uses the %s embedder: %s",
        *(("trained" if found.is_trained else "base"), found.reason),
    )
    return found


def _clean(scratch: Path) -> None:
    """Remove checkpoints and what was not kept, once the result is safe."""
    from tasks.training.checkpoints import drop_checkpoints

    drop_checkpoints(scratch)
    shutil.rmtree(scratch / "trained", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run_stage("retriever_training", Params, Paths, run))
