"""A release bundle of the tiny models, made by the stage's own code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.answering.golden import GoldenPrompt, GoldenPrompts
from tasks.packaging.__main__ import Params, Paths, run
from tasks.stage.outputs import write_manifest

PACKAGING = {"golden": 4, "golden_answers": 2, "golden_tokens": 3, "max_mismatch": 0.25}


def packaging_params(prompting: Any, models: Any, compute: Any) -> Params:
    return Params.model_validate(
        {"packaging": PACKAGING, "prompting": prompting, "models": models, "compute": compute}
    )


def package(root: Path, params: Params, tiny: Any, index: Path, report: Path) -> Path:
    """The bundle's folder, `root/bundle`; the report is in `root/report`."""
    paths = Paths(
        curated=tiny.curated,
        base=tiny.base,
        retriever=tiny.retriever,
        model_store=tiny.store,
        adapter=tiny.adapter,
        students=tiny.students,
        index=index,
        evaluation_report=report,
        scratch=root / "scratch",
        bundle=root / "bundle",
        packaging_report=root / "report",
    )
    run(params, paths)
    return paths.bundle


def rewrite_golden(bundle: Path, change: Callable[[GoldenPrompt], dict[str, Any]]) -> None:
    """Change what is recorded of the adapter's golden prompts, and seal the bundle again."""
    golden = GoldenPrompts.read(bundle)
    changed = tuple(item.model_copy(update=change(item)) for item in golden.models["adapter"])
    GoldenPrompts(models=golden.models | {"adapter": changed}).write(bundle)
    write_manifest(bundle)


def forge_prompt_ids(bundle: Path) -> None:
    """Let the adapter's golden prompts have been recorded with another sixth token."""
    rewrite_golden(
        bundle, lambda item: {"prompt_ids": (*item.prompt_ids[:5], 7, *item.prompt_ids[6:])}
    )
