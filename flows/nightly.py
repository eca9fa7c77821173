"""A night, top to bottom: refresh -> build -> record -> release."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run

from flows.build import build
from flows.environment import find_stores, open_checkout
from flows.graph import has_remote
from flows.release import release
from flows.run_state import VERDICTS, NightLog, NightState, new_night_name
from flows.workspace import Workspace, choose_workspace, night_lock, prepare
from tasks.ingestion.intakes import ingest
from tasks.ingestion.params import IngestionParams
from tasks.orchestration.base_model import resolve
from tasks.orchestration.data import push, track
from tasks.orchestration.llm_judge import judge_answers
from tasks.orchestration.llm_scorers import LlmJudgeParams
from tasks.orchestration.publish import notify
from tasks.orchestration.reproduce import NightParams
from tasks.orchestration.tracking import Tracker
from tasks.promotion.params import PromotionParams
from tasks.registry.client import Registry
from tasks.registry.params import ReleaseParams
from tasks.services.stores import RunRef
from tasks.stage.errors import GateError, NightloomError
from tasks.stage.outputs import write_atomically
from tasks.stage.params import ModelsParams, RerankingParams, StageParams, load_params


class _RefreshParams(StageParams):
    ingestion: IngestionParams
    models: ModelsParams
    reranking: RerankingParams
    # Read again when they are used, hours later; wrong ones are known before anything begins.
    night: NightParams
    judging: LlmJudgeParams
    promotion: PromotionParams
    release: ReleaseParams


def _run_name() -> str:
    """Return the night's name: the one given, else the time that the run was scheduled for."""
    given = flow_run.parameters.get("night")
    return str(given) if given else new_night_name(flow_run.scheduled_start_time)


@flow(name="nightly", flow_run_name=_run_name, persist_result=False)
def nightly(
    root: str = ".",
    preset: str | None = None,
    overrides: Sequence[str] = (),
    night: str | None = None,
    only_release: bool = False,
) -> State[Any]:
    """Run a night; return a state named after the verdict, with the models' in its message.

    With `only_release` nothing is taken in and built: the last bundle is decided on again, what a
    release measures measured anew.

    A night that fails has its error in its record; the last good artifacts are still in place.

    Raises:
        NightloomError: it could not begin: there is no project, or a night runs there already.
    """
    checkout = open_checkout(Path(root))
    workspace = choose_workspace(checkout, preset, overrides)
    with night_lock(workspace.lock):
        log = NightLog(workspace, night or _run_name())
        try:
            _run(workspace, log, only_release=only_release)
        except BaseException as error:  # noqa: BLE001  its record and its state tell it
            log.fail(error)
            if not isinstance(error, NightloomError):
                get_run_logger().exception("the night ended early")
        return _state(log.now)


def _state(night: NightState) -> State[Any]:
    """Return the flow run's state of a night with a verdict."""
    assert night.verdict is not None
    kind = StateType[VERDICTS[night.verdict].state]
    return State(type=kind, name=night.told_verdict.title(), message=night.headline())


def _run(workspace: Workspace, log: NightLog, *, only_release: bool) -> None:
    """Do the night's work and leave its verdict in the log."""
    prepare(workspace)
    stores = find_stores(workspace.checkout)
    tracker, registry = Tracker(stores), Registry(stores)
    run = tracker.begin_night(log.now.night, {"nightloom.workspace": workspace.name})
    log.now.mlflow_run = run.run_id
    try:
        summary = None if only_release else _build(workspace, log, run, tracker)
        release(workspace, log, run, registry, again=only_release)
        if summary:
            log.now.reasons.insert(0, summary)
    except GateError as error:
        refused(log, error)
    except BaseException:
        tracker.end(run, finished=False)
        raise
    log.begin("done")
    states = {entry.name: entry.state for entry in log.now.stages}
    assert log.now.verdict is not None
    level = VERDICTS[log.now.verdict].level
    told = (log.now.told_verdict, log.now.headline())
    notify(log.now.night, told, log.now.reasons, states, run.run_id, level)
    tracker.tag(run, {"nightloom.verdict": str(log.now.verdict)})
    tracker.end(run, finished=True)


def _build(workspace: Workspace, log: NightLog, run: RunRef, tracker: Tracker) -> str | None:
    """Make tonight's bundle; return what to say where no stage had to run for it."""
    refresh(workspace, log)
    built = build(workspace, log, run, tracker)
    record(workspace, log, run, tracker)
    return built.summary


def refused(log: NightLog, error: GateError) -> None:
    """Note that a gate inside a stage refused the night: Nightloom working as intended."""
    for entry in log.now.stages:
        if entry.state == "running":
            entry.state = "failed"
    log.now.verdict = "refused"
    log.now.reasons = [error.message, f"what to do: {error.remedy}"]


def refresh(workspace: Workspace, log: NightLog) -> None:
    """Take new data in and have the base models ready."""
    log.begin("taking in new data")
    files = [workspace.path / "params" / f"{name}.yaml" for name in _RefreshParams.model_fields]
    params = load_params(_RefreshParams, files)
    paths = workspace.paths()
    intake = ingest(params.ingestion, workspace.path / paths.raw, workspace.path / paths.accepted)
    track(workspace.path, paths.raw, changed=intake is not None)
    log.begin("resolving the base models")
    store = (workspace.path / paths.model_store).resolve()
    store.mkdir(parents=True, exist_ok=True)
    models = params.models
    root = workspace.path
    resolve(models.base, "causal_lm", root, root / paths.base, store)
    resolve(models.embedder, "embedder", root, root / paths.embedder, store)
    if models.student is None:
        # Students are made of the base's own layers.
        write_atomically(root / paths.student_base, (root / paths.base).read_text("utf-8"))
    else:
        resolve(models.student, "causal_lm", root, root / paths.student_base, store)
    if params.reranking.model is None:
        write_atomically(root / paths.reranker, "null\n")
    else:
        resolve(params.reranking.model, "reranker", root, root / paths.reranker, store)


def record(workspace: Workspace, log: NightLog, run: RunRef, tracker: Tracker) -> None:
    """Keep what reproduces the night: data in the remote; params, lock and numbers in MLflow."""
    log.begin("recording")
    root, paths = workspace.path, workspace.paths()
    params = [f"params/{path.name}" for path in sorted((root / "params").glob("*.yaml"))]
    tracker.log_params(run, root, params)
    tracker.log_metrics(run, root / paths.evaluation_report)
    tracker.log_predictions(run, root / paths.evaluation_report)
    tracker.log_files(run, [root / "dvc.lock", root / f"{paths.raw}.dvc"], "versions")
    tracker.log_files(run, [root / paths.evaluation_report], "reports")
    push(root, remote=has_remote(root))
    report = (root / paths.evaluation_report).resolve()
    scratch = (root / paths.scratch / "judging").resolve()
    judge_answers(root, report, scratch, run, find_stores(workspace.checkout))
