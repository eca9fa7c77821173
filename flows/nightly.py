"""A night, top to bottom: refresh -> build -> record -> release."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import deployment, flow_run
from prefect.utilities.urls import url_for

from flows.abandoned import close_abandoned
from flows.build import build
from flows.damage import put_damaged_aside
from flows.dvc_leavings import mend_leavings
from flows.endings import notify_ending, tell_run
from flows.environment import find_stores, open_checkout
from flows.erased_stores import forget_answers, wipe_deleted
from flows.erasing import came_back, reapply
from flows.graph import has_remote, lacks_files
from flows.history import read_history, write_history
from flows.limits import bounded
from flows.models import check_split, resolve_models
from flows.parameters import NO_OVERRIDES, NightName, OverrideText, PresetName
from flows.promoter import deciding, make_promoter
from flows.record import NightRecord
from flows.release import release
from flows.rerun import after_crash
from flows.retention import delete_leavings, read_retention
from flows.run_state import VERDICTS, NightLog, NightRequest, NightState, new_night_name
from flows.servers import shares_prefect
from flows.workspace import Workspace, choose_workspace, night_lock, prepare
from tasks.ingestion.intakes import ingest
from tasks.ingestion.params import IngestionParams
from tasks.orchestration.data import bring_rows, track
from tasks.orchestration.flow_runs import name_scheduled_runs, tag_run
from tasks.orchestration.llm_judge import judge_answers
from tasks.orchestration.llm_scorers import LlmJudgeParams
from tasks.orchestration.mlflow_pages import run_page
from tasks.orchestration.notify import NotifyParams
from tasks.orchestration.publish import show_verdict
from tasks.orchestration.question_shift import ShiftPlace, question_shift
from tasks.orchestration.release import VersionVerdict
from tasks.orchestration.reproduce import NightParams
from tasks.orchestration.tracking import Tracker
from tasks.promotion.params import PromotionParams
from tasks.records.schema import ServedModel
from tasks.registry.client import Registry
from tasks.registry.erased import erased_champions
from tasks.registry.ledger import Ledger
from tasks.registry.params import ReleaseParams
from tasks.registry.promote import all_champions
from tasks.registry.versions import Version
from tasks.services.stores import RunRef, Stores
from tasks.stage.errors import ConfigError, DataError, GateError, NightloomError
from tasks.stage.outputs import write_atomically
from tasks.stage.params import (
    ModelsParams,
    RerankingParams,
    StageParams,
    load_params,
)


class _RefreshParams(StageParams):
    ingestion: IngestionParams
    models: ModelsParams
    reranking: RerankingParams
    # Read again when they are used, hours later; wrong ones are known before anything begins.
    night: NightParams
    judging: LlmJudgeParams
    notify: NotifyParams
    promotion: PromotionParams
    release: ReleaseParams


class _Limits(StageParams):
    night: NightParams


def _night_name() -> str:
    """Return the night's name: the one given, else the time that the run was scheduled for."""
    given = flow_run.parameters.get("night")
    return str(given) if given else new_night_name(flow_run.scheduled_start_time)


def _run_name() -> str:
    return f"nightly {_night_name()}"


@flow(
    name="nightly",
    flow_run_name=_run_name,
    persist_result=False,
    # For a run that did not come to tell it itself. What was told is not told again.
    on_completion=[tell_run],
    on_failure=[tell_run],
    on_crashed=[after_crash],
    on_cancellation=[tell_run],
)
def nightly(
    root: str = ".",
    preset: PresetName | None = None,
    overrides: list[OverrideText] = NO_OVERRIDES,
    night: NightName | None = None,
    only_release: bool = False,
) -> State[Any]:
    """Run a night; return a state named after the verdict, with the models' in its message.

    A night that fails has its error in its record; the last good artifacts are still in place.

    Args:
        root: A folder of the project. The default is the one that the worker runs in.
        preset: A list of values in params/presets, such as `tiny`; none for params/*.yaml as is.
        overrides: Values for this run alone, each FILE.KEY=VALUE (finetuning.epochs=2).
        night: The name of the night, by which commands find it. The default is the time at which
            the run was to start, such as 2026-11-28T023000Z.
        only_release: Take nothing in and build nothing: decide on the last bundle again, its speed
            and its answers over HTTP measured anew.

    Raises:
        NightloomError: it could not begin: there is no project, or a night runs there already.
    """
    checkout = open_checkout(Path(root))
    workspace = choose_workspace(checkout, preset, overrides)
    with night_lock(workspace.lock):
        log = NightLog(workspace, night or _night_name())
        request = NightRequest(preset=preset, overrides=overrides, only_release=only_release)
        try:
            _keep_request(log, request)
            prepare(workspace)
            with bounded(log, workspace.path, _limits(workspace)):
                _run(workspace, log, only_release=only_release)
        except BaseException as error:  # noqa: BLE001  its record and its state tell it
            log.fail(error)
            if not isinstance(error, NightloomError):
                get_run_logger().exception("the night ended early")
        tell(workspace.checkout, log.now.night)
        if log.now.verdict != "cancelled":  # a run that is being ended has no time for it
            clean_up(workspace)
            tag_run([log.now.told_verdict, *_model_tags(log.now)])
            name_scheduled_nights()
        return _state(log.now)


def _keep_request(log: NightLog, request: NightRequest) -> None:
    """Keep which flow run this is, and what it was asked for where a deployment started it."""
    log.now.flow_run = None if flow_run.id is None else str(flow_run.id)
    log.now.request = request if deployment.id else None
    log.write()


def _limits(workspace: Workspace) -> NightParams:
    return load_params(_Limits, [workspace.path / "params" / "night.yaml"]).night


def tell(checkout: Path, night: str) -> None:
    """Tell the channels how the night ended; what fails there never fails the night."""
    try:
        telling = notify_ending(checkout, night)
    except Exception:  # noqa: BLE001  the watch finds it, and tells
        get_run_logger().exception("whom the night was told could not be kept")
        return
    for channel, why in telling.channels.items() if telling else ():
        if why is not None:
            get_run_logger().warning("%s was not told how the night ended: %s", channel, why)


def clean_up(workspace: Workspace) -> None:
    """Delete what params let go of what nights left; what fails there never fails the night."""
    logger = get_run_logger()
    try:
        if read_retention(workspace.checkout).each_night:
            found = delete_leavings(workspace.checkout, own=workspace)
            freed = sum(leaving.freed for leaving in found.leavings)
            logger.info("deleted %.0f MB that params/retention.yaml lets go", freed)
    except NightloomError as error:
        logger.warning("nothing old was deleted: %s; what to do: %s", error.message, error.remedy)
    except Exception:
        logger.exception("nothing old was deleted")


def _model_tags(night: NightState) -> list[str]:
    return [f"{model}: {found.verdict}" for model, found in night.models.items()]


def _state(night: NightState) -> State[Any]:
    """Return the flow run's state of a night with a verdict."""
    assert night.verdict is not None
    kind = StateType[VERDICTS[night.verdict].state]
    return State(type=kind, name=night.told_verdict.title(), message=night.headline())


def name_scheduled_nights(*, wait_seconds: float = 0.0) -> list[str]:
    """Name the nights to come as they will be named when they start; return the names."""
    return name_scheduled_runs(
        nightly.name, lambda start: f"nightly {new_night_name(start)}", wait_seconds=wait_seconds
    )


def _run(workspace: Workspace, log: NightLog, *, only_release: bool) -> None:
    """Do the night's work and leave its verdict in the log."""
    for line in (*close_abandoned(workspace.checkout), *mend_leavings(workspace.path)):
        get_run_logger().warning("%s", line)
    stores = find_stores(workspace.checkout)
    tracker, registry = Tracker(stores), Registry(stores)
    record = NightRecord(workspace, log, tracker)
    log.now.links = links(workspace.checkout, tracker, record.run)
    made = _Made({}, ())
    try:
        forget(workspace, log)
        if only_release:
            made = _release(workspace, log, record, registry, again=True)
        else:
            make = partial(_make, workspace, log, record, tracker, stores, registry)
            made = _make_whole(workspace, log, make)
        ledger = Ledger(stores, registry)
        log.now.reasons += [champion.told for champion in erased_champions(ledger)]
    except GateError as error:
        refused(log, error)
    except BaseException as error:
        record.fail(log.fail(error))
        raise
    log.begin("done")
    record.finish(made.verdicts, made.champions, registry)
    states = {entry.name: entry.state for entry in log.now.stages}
    assert log.now.verdict is not None
    level = VERDICTS[log.now.verdict].level
    told = (log.now.told_verdict, log.now.headline())
    reasons = [*log.now.told_left_out, *log.now.reasons]
    show_verdict(log.now.night, told, reasons, states, record.run, tracker, level)
    page = write_history(workspace.checkout, read_history(workspace.checkout, stores))
    tracker.log_files(record.run, [page])
    tracker.end(record.run, finished=True)


@dataclass(frozen=True)
class _Made:
    """What a night decided, and who the champions were before."""

    champions: dict[ServedModel, Version]
    verdicts: tuple[VersionVerdict, ...]


def _make_whole(workspace: Workspace, log: NightLog, make: Callable[[], _Made]) -> _Made:
    """Build and release; once more if an out of an earlier stage turns out to be damaged."""
    try:
        return make()
    except DataError:
        aside = workspace.path / workspace.paths().scratch / "damaged"
        damaged = put_damaged_aside(workspace.path, aside)
        if not damaged:
            raise
    for line in damaged:
        get_run_logger().warning("%s", line)
    made = make()
    log.now.reasons += damaged
    return made


def _make(
    workspace: Workspace,
    log: NightLog,
    record: NightRecord,
    tracker: Tracker,
    stores: Stores,
    registry: Registry,
) -> _Made:
    """Build tonight's bundle and release it."""
    summary = _build(workspace, log, record, tracker, stores)
    shift = _question_shift(workspace, log, stores)
    made = _release(workspace, log, record, registry, again=False)
    if summary:
        log.now.reasons.insert(0, summary)
    if shift:
        log.now.reasons.append(shift)
    return made


def _release(
    workspace: Workspace, log: NightLog, record: NightRecord, registry: Registry, *, again: bool
) -> _Made:
    champions = all_champions(registry)
    return _Made(champions, release(workspace, log, record.run, registry, again=again))


def _build(
    workspace: Workspace, log: NightLog, record: NightRecord, tracker: Tracker, stores: Stores
) -> str | None:
    """Make tonight's bundle; return what to say where no stage had to run for it."""
    refresh(workspace, log, stores)
    record.tell_left_out()
    built = build(workspace, log, record.run, tracker)
    record.keep()
    judge(workspace, record.run)
    return built.summary


def _question_shift(workspace: Workspace, log: NightLog, stores: Stores) -> str | None:
    """Return what the last day's served questions say, None where none was kept."""
    log.begin("looking at served questions")
    root, paths = workspace.path, workspace.paths()
    place = ShiftPlace(
        root=root,
        curated=root / paths.curated,
        embedder=root / paths.embedder,
        store=(root / paths.model_store).resolve(),
        scratch=root / paths.scratch / "release",
    )
    return question_shift(stores, place)


def forget(workspace: Workspace, log: NightLog) -> None:
    """Erase what a backup brought back, and say which version serves though it held erased rows.

    What such a version answered since goes too: it may be the row itself.
    """
    log.begin("looking for rows that were erased")
    promoter = make_promoter(workspace.checkout)
    if came_back(promoter, workspace):
        with deciding(workspace.checkout) as promoter:
            found = reapply(promoter, workspace)
        get_run_logger().warning(
            "%d rows that were erased had come back, from a backup perhaps: they are erased again",
            len(found.rows),
        )
    for champion in erased_champions(promoter.ledger):
        get_run_logger().warning("%s", champion.told)
    _forget_answers(workspace.checkout, promoter.ledger)


def _forget_answers(checkout: Path, ledger: Ledger) -> None:
    stores, logger = find_stores(checkout), get_run_logger()
    gone = forget_answers(stores, ledger)
    if not gone:
        return
    logger.warning("%d served answers of versions that held erased rows are deleted", gone)
    try:
        wipe_deleted(checkout, stores)
    except ConfigError as error:
        logger.warning("%s; what to do: %s, or `nightloom prune --yes`", error, error.remedy)


def links(checkout: Path, tracker: Tracker, run: RunRef) -> dict[str, str]:
    """Return the addresses of the night's pages, where servers that stay show them."""
    prefect = url_for("flow-run", flow_run.id) if shares_prefect(checkout) else None
    found = {"MLflow": tracker.link(run_page(run)), "Prefect": prefect}
    return {title: link for title, link in found.items() if link is not None}


def refused(log: NightLog, error: GateError) -> None:
    """Note that a gate inside a stage refused the night: Nightloom working as intended."""
    for entry in log.now.stages:
        if entry.state == "running":
            entry.state = "failed"
    log.now.verdict = "refused"
    log.now.reasons = [error.message, f"what to do: {log.with_log(error.remedy)}"]


def refresh(workspace: Workspace, log: NightLog, stores: Stores) -> None:
    """Have the base models ready, and take new data in, feedback from MLflow's `stores` too.

    Models come first: one that a night could not use is refused before a row is read.
    """
    log.begin("resolving the base models")
    files = [workspace.path / "params" / f"{name}.yaml" for name in _RefreshParams.model_fields]
    params = load_params(_RefreshParams, files)
    check_split(workspace)
    resolve_models(workspace, params.models, params.reranking)
    log.begin("taking in new data")
    paths = workspace.paths()
    raw, accepted = workspace.path / paths.raw, workspace.path / paths.accepted
    tracked = f"{paths.raw}.dvc"
    if (workspace.path / tracked).exists() and lacks_files(workspace.path, tracked):
        bring_rows(workspace.path, paths.raw, remote=has_remote(workspace.path))
    taken = ingest(params.ingestion, raw, accepted, stores)
    log.now.left_out = dict(taken.left_out)
    track(workspace.path, paths.raw, changed=taken.intake is not None)
    weights = json.dumps(params.ingestion.weights, sort_keys=True)
    write_atomically(workspace.path / paths.source_weights, weights + "\n")


def judge(workspace: Workspace, run: RunRef) -> None:
    """Let an LLM judge the answers, where params name one."""
    root, paths = workspace.path, workspace.paths()
    report = (root / paths.evaluation_report).resolve()
    scratch = (root / paths.scratch / "judging").resolve()
    judge_answers(root, report, scratch, run, find_stores(workspace.checkout))
