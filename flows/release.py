"""The release: registered, judged, the aliases moved; it can be run again alone."""

from dataclasses import dataclass

from prefect import flow

from flows.environment import find_stores
from flows.nights import NightLog, Verdict
from flows.workspace import Workspace
from tasks.orchestration.judgement import Judgement, earlier_judgement, judge, write_decision
from tasks.orchestration.promotion import all_aliases
from tasks.orchestration.registration import register, register_prompt
from tasks.orchestration.registry import MODELS, Registry, Version, promotion_key
from tasks.orchestration.rescore import Tonight, rescore
from tasks.orchestration.stores import RunRef
from tasks.orchestration.tracking import Tracker
from tasks.promotion.evidence import Evidence
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
    judgements = [_judge(version, workspace, night, registry) for version in versions]
    log.now.aliases = all_aliases(registry)
    result = _combine(judgements)
    log.now.reasons = list(result.reasons)
    log.write()
    return result


def _judge(version: Version, workspace: Workspace, night: RunRef, registry: Registry) -> Judgement:
    """What becomes of one version, held against the one that reigns."""
    root, paths = workspace.path, workspace.paths()
    known = earlier_judgement(version, root, root / paths.curation_report)
    if known is not None:
        return known
    tracker = Tracker(find_stores(workspace.checkout))
    tonight = Tonight(
        root=root,
        evaluation=root / paths.evaluation_report,
        curated=root / paths.curated,
        model_store=root / paths.model_store,
        scratch=root / paths.scratch,
    )
    evidence = Evidence(
        validation=root / paths.validation_report,
        curation=root / paths.curation_report,
        evaluation=tonight.evaluation,
        packaging=root / paths.packaging_report,
        parity=None,
        bundle_sha256=promotion_key(root / paths.bundle),
        reigning=rescore(version, tonight, registry, tracker),
    )
    judgement = judge(version, root, evidence, registry)
    if judgement.decision is not None:
        file = root / paths.scratch / "release" / f"verdict-{version.model}.json"
        write_decision(judgement.decision, version, evidence, file)
        tracker.log_files(night, [file], "verdict")
    return judgement


def _combine(judgements: list[Judgement]) -> Release:
    """The adapter's verdict, unless it alone is unchanged; the reasons of all."""
    changed = [item for item in judgements if item.verdict != "unchanged"]
    return Release(
        verdict=(changed or judgements)[0].verdict,
        reasons=tuple(reason for item in judgements for reason in item.reasons),
    )
