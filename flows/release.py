"""The release: registered, compared with the champion, decided, aliases moved; also alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from flows.environment import find_stores
from flows.promoter import Promoter, delete_old, make_promoter
from flows.run_state import ModelVerdict, NightLog, combined_verdict
from flows.workspace import Workspace
from tasks.orchestration.release import (
    ITSELF,
    VerdictKey,
    VersionVerdict,
    apply_verdict,
    ask_for_approval,
    decide_version,
    earlier_verdict,
    mend,
    refuse_foreign_champion,
    verdict_key,
    warn_of_teacher,
    write_decision,
)
from tasks.orchestration.rescore import Tonight, count_record_use, rescore, rescore_earlier
from tasks.orchestration.shadow import ShadowPlace, Sides, shadow
from tasks.orchestration.speed import speed
from tasks.orchestration.tracking import Tracker
from tasks.orchestration.verify import Scored, ServingSetup, verify
from tasks.promotion.evidence import EvidenceFiles
from tasks.promotion.shadow import SHADOW_FILE
from tasks.promotion.speed import SPEED_FILE
from tasks.prompting.files import PROMPT
from tasks.records.schema import ServedModel
from tasks.registry.aliases import find_champion
from tasks.registry.client import Registry
from tasks.registry.ledger import Entry
from tasks.registry.promote import POLICY, all_aliases, other_champion
from tasks.registry.register import nominate, register, register_prompt
from tasks.registry.versions import MODELS, Version, promotion_key
from tasks.scoring.parity import PARITY_FILE
from tasks.services.stores import RunRef
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.outputs import MANIFEST, verified


@dataclass(frozen=True)
class _ReleaseContext:
    """Where a release finds its evidence, and who carries its verdicts out.

    `again`: verdicts of before do not stand.
    """

    workspace: Workspace
    night: RunRef
    promoter: Promoter
    registry: Registry
    tracker: Tracker
    again: bool = False

    @property
    def scratch(self) -> Path:
        """Return where the release leaves what it found, below the workspace's scratch."""
        return self.workspace.path / self.workspace.paths().scratch / "release"


@flow(
    name="release",
    flow_run_name="release {log.now.night}",
    validate_parameters=False,
    persist_result=False,
)
def release(
    workspace: Workspace,
    log: NightLog,
    night: RunRef,
    registry: Registry,
    *,
    again: bool = False,
) -> tuple[VersionVerdict, ...]:
    """Release the bundle that lies in the workspace; leave what became of it in the log.

    Return the verdicts. With `again` what was decided before is decided anew.

    Raises:
        ConfigError: there is no bundle.
        DataError: it does not match its manifest.
    """
    bundle = workspace.path / workspace.paths().bundle
    if not (bundle / MANIFEST).exists():
        raise ConfigError(f"there is no bundle in {bundle}", "run `nightloom run`, which makes one")
    verified(bundle)
    promoter = make_promoter(workspace.checkout, workspace.path)
    tracker = Tracker(find_stores(workspace.checkout))
    context = _ReleaseContext(workspace, night, promoter, registry, tracker, again)
    versions, notes = _register(context, log)
    evidence = _gather(context, versions, log)
    decided, more = _decide(context, versions, evidence, log)
    log.now.models = {item.verdict.version.model: item.told() for item in decided}
    log.now.aliases = all_aliases(registry)
    reasons = [reason for item in decided for reason in item.verdict.reasons]
    log.now.reasons = [*reasons, *notes, *more]
    log.now.verdict = combined_verdict(item.verdict.verdict for item in decided)
    log.write()
    return tuple(item.verdict for item in decided)


@dataclass(frozen=True)
class _Decided:
    """A verdict, and the ledger's entry of what it moved; None where that of before stands."""

    verdict: VersionVerdict
    entry: Entry | None

    def told(self) -> ModelVerdict:
        """Return it as the night's record holds it."""
        found = self.verdict
        return ModelVerdict(
            verdict=found.verdict,
            headline=self._headline(),
            reasons=list(found.reasons),
            passed=list(found.passed),
        )

    def _headline(self) -> str:
        found, against = self.verdict, ", ".join(self.verdict.refused_by)
        if found.verdict == "unchanged":
            why = f": {against}" if against else ""
            return f"unchanged ({found.stands} before{why})"
        if found.verdict == "refused" or self.entry is None:
            return f"refused ({against})"
        entry = self.entry
        reached = [
            name for name in ("production", "staging") if entry.after.get(name) == entry.version
        ]
        text = f"promoted to {reached[0]}" if reached else "passed"
        return text if entry.awaits is None else f"{text}, awaits approval for {entry.awaits}"


def _register(context: _ReleaseContext, log: NightLog) -> tuple[list[Version], list[str]]:
    """Return each model's version of the bundle, and what an earlier release had left."""
    root, paths = context.workspace.path, context.workspace.paths()
    bundle = root / paths.bundle
    store = (context.workspace.checkout / paths.model_store).resolve()
    log.begin("registering")
    with context.promoter.lock.held():
        notes = _mend(context.promoter)
        prompt = register_prompt(bundle / MODELS[0] / PROMPT, context.night, context.registry)
        versions = register(root, bundle, store, context.night, context.registry, prompt=prompt)
    log.now.versions.update((version.model, version.number) for version in versions)
    return versions, notes


def _mend(promoter: Promoter) -> list[str]:
    """Finish what an earlier release had left of both models. Call it while holding the lock."""
    ledger, params, downloads = promoter.ledger, promoter.params, promoter.downloads
    return [note for model in MODELS for note in mend(model, ledger, params, downloads)]


def _gather(
    context: _ReleaseContext, versions: Sequence[Version], log: NightLog
) -> dict[ServedModel, EvidenceFiles]:
    """Gather the evidence on each new version, by model; it is slow, so without the lock."""
    root, paths = context.workspace.path, context.workspace.paths()
    new = [item for item in versions if _standing(context, item, _key(context, item)) is None]
    if not new:
        return {}
    log.begin("rescoring the champion")
    found = {version.model: _evidence(context, version) for version in new}
    log.begin("asking what was registered")
    scored = Scored(root / paths.bundle, root / paths.evaluation_report)
    store = (context.workspace.checkout / paths.model_store).resolve()
    stores = find_stores(context.workspace.checkout)
    setup = ServingSetup(stores.tracking_uri, store, context.scratch / "servers")
    verify({version.model: version.number for version in new}, scored, setup, context.scratch)
    context.tracker.log_files(context.night, [context.scratch / PARITY_FILE], "verdict")
    log.begin("measuring speed")
    speed(root, scored.bundle, store, tuple(found), context.scratch)
    context.tracker.log_files(context.night, [context.scratch / SPEED_FILE], "verdict")
    log.begin("answering served questions again")
    if sides := _sides(context, new):
        place = ShadowPlace(root, store, context.scratch)
        shadow(sides, promotion_key(scored.bundle), stores, place)
        context.tracker.log_files(context.night, [context.scratch / SHADOW_FILE], "verdict")
    return found


def _sides(context: _ReleaseContext, new: Sequence[Version]) -> dict[ServedModel, Sides]:
    """Return each new version beside the champion, by model; one whose bundle is gone is not."""
    paths, downloads = context.workspace.paths(), context.scratch / "bundles"
    found: dict[ServedModel, Sides] = {}
    for version in new:
        champion = other_champion(context.registry, version)
        if champion is None:
            continue
        try:
            bundle = context.registry.bundle(version.model, champion.number, downloads)
        except (ConfigError, DataError):
            continue  # the verdict says so: it could not be rescored
        own = context.workspace.path / paths.bundle
        name = f"{version.model}-{version.number}"
        found[version.model] = Sides(own, name, bundle, champion.name)
    return found


def _evidence(context: _ReleaseContext, version: Version) -> EvidenceFiles:
    """Return all that a version is decided by, with the champion scored on tonight's split."""
    root, paths = context.workspace.path, context.workspace.paths()
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
        parity=context.scratch / PARITY_FILE,
        bundle_sha256=promotion_key(root / paths.bundle),
        champion=rescore(version, tonight, context.registry, context.tracker),
        speed=context.scratch / SPEED_FILE,
        shadow=context.scratch / SHADOW_FILE,
        earlier=rescore_earlier(version, tonight, context.promoter.ledger, context.tracker),
        uses=count_record_use(
            context.promoter.ledger, tonight.curated / "test.jsonl", context.scratch / "use"
        ),
    )


def _decide(
    context: _ReleaseContext,
    versions: Sequence[Version],
    evidence: Mapping[ServedModel, EvidenceFiles],
    log: NightLog,
) -> tuple[list[_Decided], list[str]]:
    """Decide, carry the verdicts out, and ask people; return what was decided, and notes.

    The lock was free since the registration; while it is held, the champion does not change. No
    alias names a version before this: it was served once and answered, or the release ended.
    """
    ledger, lock = context.promoter.ledger, context.promoter.lock
    log.begin("judging")
    with lock.held():
        notes = _mend(context.promoter)
        decided: list[_Decided] = []
        for version in versions:
            nominate(context.registry, version)
            verdict = _decide_version(context, version, evidence, decided)
            entry = apply_verdict(verdict, ledger, context.promoter.params)
            decided.append(_Decided(verdict, entry))
        if context.promoter.params.retention.at_release:
            gone = [one for one in delete_old(context.promoter, None, POLICY) if one.goes]
            notes += [f"{one.version.name} was deleted: {one.why}" for one in gone]
    asked = [
        text for model in MODELS for text in ask_for_approval(model, ledger, shared=lock.shared)
    ]
    return decided, [*notes, *asked]


def _decide_version(
    context: _ReleaseContext,
    version: Version,
    evidence: Mapping[ServedModel, EvidenceFiles],
    before: Sequence[_Decided],
) -> VersionVerdict:
    """Return what is found of one version, compared with the champion of this moment.

    `before` was decided in this release already: a student comes after its teacher.
    """
    root = context.workspace.path
    # Read again: another release of the same bundle may have decided on it since.
    now = context.registry.version(version.model, version.number)
    key = _key(context, now)
    known = _standing(context, now, key)
    if known is not None:
        return known
    found = decide_version(now, root, _current(context, now, evidence.get(version.model)), key)
    if version.model == "student":
        for item in before:
            found = warn_of_teacher(found, item.verdict)
    verdict = refuse_foreign_champion(found, context.promoter.ledger)
    file = context.scratch / f"verdict-{version.model}.json"
    write_decision(verdict, file)
    context.tracker.log_files(context.night, [file], "verdict")
    return verdict


def _standing(context: _ReleaseContext, version: Version, key: VerdictKey) -> VersionVerdict | None:
    """Return the verdict of before, where it stands."""
    return None if context.again else earlier_verdict(version, key)


def _key(context: _ReleaseContext, version: Version) -> VerdictKey:
    """Return what a verdict on a version rests on at this moment."""
    root, paths = context.workspace.path, context.workspace.paths()
    names = (
        paths.validation_report,
        paths.curation_report,
        paths.evaluation_report,
        paths.packaging_report,
    )
    champion = find_champion(context.registry.aliases(version.model))
    name = "base" if champion is None else champion.name
    if champion is not None and champion.number == version.number:
        name = ITSELF
    return verdict_key(version, root, [root / report for report in names], name)


def _current(
    context: _ReleaseContext, version: Version, found: EvidenceFiles | None
) -> EvidenceFiles:
    """Return the evidence, gathered again if another version is champion by now."""
    if found is not None:
        compared = None if found.champion is None else found.champion.name
        champion = other_champion(context.registry, version)
        if compared == (None if champion is None else champion.name):
            return found
    return _evidence(context, version)
