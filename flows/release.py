"""The release: reconciled, registered, judged, applied; it can be run again alone."""

from dataclasses import dataclass

from prefect import flow

from flows.nights import NightLog, Verdict
from flows.promoting import Promoter, make_promoter
from flows.workspace import Workspace
from tasks.orchestration.judgement import Judgement, judge
from tasks.orchestration.promotion import all_aliases
from tasks.orchestration.registration import register, register_prompt
from tasks.orchestration.registry import Registry
from tasks.orchestration.release import apply, ask, mend
from tasks.orchestration.stores import RunRef
from tasks.orchestration.versions import MODELS, Version
from tasks.records.prompt_files import PROMPT
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import MANIFEST, verified


@dataclass(frozen=True)
class Release:
    """What became of tonight's bundle."""

    verdict: Verdict
    reasons: tuple[str, ...]


@flow(name="release", validate_parameters=False, persist_result=False)
def release(workspace: Workspace, log: NightLog, night: RunRef, registry: Registry) -> Release:
    """What became of the bundle that lies in the workspace.

    Raises:
        ConfigError: there is none.
        DataError: it does not match its manifest.
    """
    paths = workspace.paths()
    bundle = workspace.path / paths.bundle
    if not (bundle / MANIFEST).exists():
        raise ConfigError(f"there is no bundle in {bundle}", "run `nightloom run`, which makes one")
    verified(bundle)
    promoter = make_promoter(workspace.checkout, workspace.path)
    versions, notes = _register(workspace, log, night, promoter, registry)
    judgements, asked = _decide(workspace, log, versions, promoter)
    log.now.aliases = all_aliases(registry)
    result = _combine(judgements, [*notes, *asked])
    log.now.reasons = list(result.reasons)
    log.write()
    return result


def _register(
    workspace: Workspace, log: NightLog, night: RunRef, promoter: Promoter, registry: Registry
) -> tuple[list[Version], list[str]]:
    """Each model's version of the bundle, and what an earlier release had left."""
    paths = workspace.paths()
    bundle = workspace.path / paths.bundle
    store = (workspace.checkout / paths.model_store).resolve()
    prompt = register_prompt(bundle / MODELS[0] / PROMPT, night, registry)
    log.begin("registering")
    with promoter.turns.mine():
        notes = [note for model in MODELS for note in mend(model, promoter.ledger)]
        versions = register(workspace.path, bundle, store, night, registry, prompt=prompt)
    log.now.versions.update((version.model, version.number) for version in versions)
    return versions, notes


def _decide(
    workspace: Workspace, log: NightLog, versions: list[Version], promoter: Promoter
) -> tuple[list[Judgement], list[str]]:
    """The judgements, carried out, and what people are asked.

    The turn was free since the registration; within it, what reigns does not change any more.
    """
    paths, ledger = workspace.paths(), promoter.ledger
    reports = (workspace.path / paths.evaluation_report, workspace.path / paths.curation_report)
    log.begin("judging")
    with promoter.turns.mine():
        notes = [note for model in MODELS for note in mend(model, ledger)]
        # Read again: another release of the same bundle may have judged it since.
        now = [ledger.registry.version(version.model, version.number) for version in versions]
        judgements = [judge(version, workspace.path, *reports, ledger.registry) for version in now]
        for judgement in judgements:
            apply(judgement, ledger, promoter.params)
    shared = promoter.turns.shared
    asked = [text for model in MODELS for text in ask(model, ledger, shared=shared)]
    return judgements, [*notes, *asked]


def _combine(judgements: list[Judgement], notes: list[str]) -> Release:
    """The adapter's verdict, unless it alone is unchanged; the reasons of all, then the notes."""
    changed = [item for item in judgements if item.verdict != "unchanged"]
    return Release(
        verdict=(changed or judgements)[0].verdict,
        reasons=(*(reason for item in judgements for reason in item.reasons), *notes),
    )
