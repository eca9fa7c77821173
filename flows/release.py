"""The release: registered, held against what reigns, judged, the aliases moved; also alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows.environment import find_stores
from flows.promoter import Promoter, delete_old, make_promoter
from flows.run_state import NightLog, Verdict
from flows.workspace import Workspace
from tasks.orchestration.release import (
    VersionVerdict,
    apply_verdict,
    ask_for_approval,
    decide_version,
    earlier_verdict,
    mend,
    refuse_foreign_champion,
    write_decision,
)
from tasks.orchestration.rescore import Tonight, rescore
from tasks.orchestration.tracking import Tracker
from tasks.orchestration.verify import Scored, ServingSetup, verify
from tasks.promotion.evidence import EvidenceFiles
from tasks.prompting.files import PROMPT
from tasks.registry.client import Registry
from tasks.registry.promote import POLICY, all_aliases, other_champion
from tasks.registry.register import nominate, register, register_prompt
from tasks.registry.versions import MODELS, Model, Version, promotion_key
from tasks.scoring.parity import PARITY_FILE
from tasks.services.stores import RunRef
from tasks.stage.errors import ConfigError
from tasks.stage.outputs import MANIFEST, verified


@dataclass(frozen=True)
class Release:
    """What became of tonight's bundle."""

    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _ReleaseContext:
    """Where a release finds its evidence, and who carries its verdicts out."""

    workspace: Workspace
    night: RunRef
    promoter: Promoter
    registry: Registry
    tracker: Tracker

    @property
    def scratch(self) -> Path:
        """Where the release leaves what it found, below the workspace's scratch."""
        return self.workspace.path / self.workspace.paths().scratch / "release"


@flow(name="release", validate_parameters=False, persist_result=False)
def release(workspace: Workspace, log: NightLog, night: RunRef, registry: Registry) -> Release:
    """What became of the bundle that lies in the workspace.

    Raises:
        ConfigError: there is none.
        DataError: it does not match its manifest.
    """
    bundle = workspace.path / workspace.paths().bundle
    if not (bundle / MANIFEST).exists():
        raise ConfigError(f"there is no bundle in {bundle}", "run `nightloom run`, which makes one")
    verified(bundle)
    promoter = make_promoter(workspace.checkout, workspace.path)
    tracker = Tracker(find_stores(workspace.checkout))
    court = _ReleaseContext(workspace, night, promoter, registry, tracker)
    versions, notes = _register(court, log)
    evidence = _gather(court, versions, log)
    judgements, asked = _decide(court, versions, evidence, log)
    log.now.aliases = all_aliases(registry)
    result = _combine(judgements, [*notes, *asked])
    log.now.reasons = list(result.reasons)
    log.write()
    return result


def _register(court: _ReleaseContext, log: NightLog) -> tuple[list[Version], list[str]]:
    """Each model's version of the bundle, and what an earlier release had left."""
    root, paths = court.workspace.path, court.workspace.paths()
    bundle = root / paths.bundle
    store = (court.workspace.checkout / paths.model_store).resolve()
    log.begin("registering")
    with court.promoter.turns.mine():
        notes = _mend(court.promoter)
        prompt = register_prompt(bundle / MODELS[0] / PROMPT, court.night, court.registry)
        versions = register(root, bundle, store, court.night, court.registry, prompt=prompt)
    log.now.versions.update((version.model, version.number) for version in versions)
    return versions, notes


def _mend(promoter: Promoter) -> list[str]:
    """What an earlier release had left of both models, mended. Call it in the turn."""
    ledger, params, downloads = promoter.ledger, promoter.params, promoter.downloads
    return [note for model in MODELS for note in mend(model, ledger, params, downloads)]


def _gather(
    court: _ReleaseContext, versions: Sequence[Version], log: NightLog
) -> dict[Model, EvidenceFiles]:
    """The evidence on each version that was not judged yet, by its model: slow, so in no turn."""
    root, paths = court.workspace.path, court.workspace.paths()
    curation = root / paths.curation_report
    new = [item for item in versions if earlier_verdict(item, root, curation) is None]
    if not new:
        return {}
    log.begin("rescoring what reigns")
    found = {version.model: _evidence(court, version) for version in new}
    log.begin("asking what was registered")
    scored = Scored(root / paths.bundle, root / paths.evaluation_report)
    store = (court.workspace.checkout / paths.model_store).resolve()
    stores = find_stores(court.workspace.checkout)
    house = ServingSetup(stores.tracking_uri, store, court.scratch / "servers")
    verify({version.model: version.number for version in new}, scored, house, court.scratch)
    court.tracker.log_files(court.night, [court.scratch / PARITY_FILE], "verdict")
    return found


def _evidence(court: _ReleaseContext, version: Version) -> EvidenceFiles:
    """All that a version is judged by, what reigns now scored on tonight's split among it."""
    root, paths = court.workspace.path, court.workspace.paths()
    tonight = Tonight(
        root=root,
        evaluation=root / paths.evaluation_report,
        packaging=root / paths.packaging_report,
        curated=root / paths.curated,
        model_store=root / paths.model_store,
        scratch=root / paths.scratch,
    )
    return EvidenceFiles(
        validation=root / paths.validation_report,
        curation=root / paths.curation_report,
        evaluation=tonight.evaluation,
        packaging=tonight.packaging,
        parity=court.scratch / PARITY_FILE,
        bundle_sha256=promotion_key(root / paths.bundle),
        reigning=rescore(version, tonight, court.registry, court.tracker),
    )


def _decide(
    court: _ReleaseContext,
    versions: Sequence[Version],
    evidence: Mapping[Model, EvidenceFiles],
    log: NightLog,
) -> tuple[list[VersionVerdict], list[str]]:
    """The judgements, carried out, and what people are asked.

    The turn was free since the registration; within it, what reigns does not change any more. No
    alias names a version before this: it was served once and answered, or the release ended.
    """
    ledger, turns = court.promoter.ledger, court.promoter.turns
    log.begin("judging")
    with turns.mine():
        notes = _mend(court.promoter)
        judgements = []
        for version in versions:
            nominate(court.registry, version)
            judgements.append(_decide_version(court, version, evidence))
            apply_verdict(judgements[-1], ledger, court.promoter.params)
        if court.promoter.params.retention.at_release:
            gone = [fate for fate in delete_old(court.promoter, None, POLICY) if fate.goes]
            notes += [f"{fate.version.name} was deleted: {fate.why}" for fate in gone]
    asked = [
        text for model in MODELS for text in ask_for_approval(model, ledger, shared=turns.shared)
    ]
    return judgements, [*notes, *asked]


def _decide_version(
    court: _ReleaseContext, version: Version, evidence: Mapping[Model, EvidenceFiles]
) -> VersionVerdict:
    """What is found of one version, by evidence on what reigns at this moment."""
    root, paths = court.workspace.path, court.workspace.paths()
    # Read again: another release of the same bundle may have judged it since.
    now = court.registry.version(version.model, version.number)
    known = earlier_verdict(now, root, root / paths.curation_report)
    if known is not None:
        return known
    found = decide_version(now, root, _current(court, now, evidence.get(version.model)))
    judgement = refuse_foreign_champion(found, court.promoter.ledger)
    file = court.scratch / f"verdict-{version.model}.json"
    write_decision(judgement, file)
    court.tracker.log_files(court.night, [file], "verdict")
    return judgement


def _current(
    court: _ReleaseContext, version: Version, found: EvidenceFiles | None
) -> EvidenceFiles:
    """The evidence, gathered again where something else reigns by now than it was held against."""
    if found is not None:
        held_against = None if found.reigning is None else found.reigning.name
        if held_against == other_champion(court.registry, version):
            return found
    return _evidence(court, version)


def _combine(judgements: Sequence[VersionVerdict], notes: Sequence[str]) -> Release:
    """The adapter's verdict, unless it alone is unchanged; the reasons of all, then the notes."""
    changed = [item for item in judgements if item.verdict != "unchanged"]
    return Release(
        verdict=(changed or judgements)[0].verdict,
        reasons=(*(reason for item in judgements for reason in item.reasons), *notes),
    )
