"""The release: registered, judged, the aliases moved; it can be run again alone."""

from dataclasses import dataclass

from prefect import flow

from flows.nights import NightLog, Verdict
from flows.workspace import Workspace
from tasks.orchestration.judgement import Judgement, judge
from tasks.orchestration.promotion import all_aliases
from tasks.orchestration.registration import register, register_prompt
from tasks.orchestration.registry import MODELS, Registry
from tasks.orchestration.stores import RunRef
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
    store = (workspace.checkout / paths.model_store).resolve()
    prompt = register_prompt(bundle / MODELS[0] / PROMPT, night, registry)
    log.begin("registering")
    versions = register(workspace.path, bundle, store, night, registry, prompt=prompt)
    log.now.versions.update((version.model, version.number) for version in versions)
    log.begin("judging")
    reports = (workspace.path / paths.evaluation_report, workspace.path / paths.curation_report)
    judgements = [judge(version, workspace.path, *reports, registry) for version in versions]
    log.now.aliases = all_aliases(registry)
    result = _combine(judgements)
    log.now.reasons = list(result.reasons)
    log.write()
    return result


def _combine(judgements: list[Judgement]) -> Release:
    """The adapter's verdict, unless it alone is unchanged; the reasons of all."""
    changed = [item for item in judgements if item.verdict != "unchanged"]
    return Release(
        verdict=(changed or judgements)[0].verdict,
        reasons=tuple(reason for item in judgements for reason in item.reasons),
    )
