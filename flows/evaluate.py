"""The deep evaluation of the last night's models, in a workspace of its own.

Its params are those of `params/presets/evaluation-full.yaml`: every mode of every system, prompts
compared, passages that give orders. Nothing is registered, and the night's own report stays.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows.build import build_stages
from flows.dvc_leavings import mend_leavings
from flows.environment import find_stores, open_checkout
from flows.erasing import came_back
from flows.graph import stage_names
from flows.overrides import override_text, overrides_digest
from flows.parameters import NO_OVERRIDES, OverrideText, PresetName
from flows.promoter import make_promoter
from flows.run_state import NightLog, new_night_name
from flows.workspace import STATE, Workspace, choose_workspace, night_lock, prepare, share_inputs
from tasks.orchestration.night_figures import read_figures
from tasks.orchestration.night_page import NightPage, describe_night
from tasks.orchestration.tracking import Tracker, source_tags
from tasks.stage.errors import ConfigError

PRESET = "evaluation-full"
_STAGE = "evaluation"


def _run_name() -> str:
    return f"{PRESET} {new_night_name(flow_run.scheduled_start_time)}"


@flow(name=PRESET, flow_run_name=_run_name, persist_result=False)
def evaluate_fully(
    root: str = ".",
    preset: PresetName | None = None,
    overrides: list[OverrideText] = NO_OVERRIDES,
) -> Path:
    """Evaluate in depth, and return the report's folder.

    The stages before evaluation come out of DVC's cache as the night of `preset` and `overrides`
    left them; what is not there any more is made again.

    Args:
        root: A folder of the project. The default is the one that the process runs in.
        preset: A list of values in params/presets, such as `tiny`; none for params/*.yaml as is.
        overrides: Values for this run alone, each FILE.KEY=VALUE (finetuning.epochs=2).

    Raises:
        NightloomError: there was no such night, or a stage failed.
    """
    checkout = open_checkout(Path(root))
    base = choose_workspace(checkout, preset, overrides)
    texts = [override_text(item.key, item.value) for item in base.overrides]
    chosen = choose_workspace(checkout, PRESET, texts)
    folder = checkout / STATE / PRESET / overrides_digest(chosen.overrides)
    workspace = replace(chosen, path=folder)
    _check(base)
    with night_lock(workspace.lock):
        prepare(workspace)
        share_inputs(base, workspace)
        mend_leavings(workspace.path)
        tracker = Tracker(find_stores(checkout))
        name = f"{PRESET}-{new_night_name(datetime.now(UTC))}"
        log = NightLog(workspace, name, workspace.path / STATE / f"{PRESET}.json")
        run = tracker.begin_night(name, source_tags(checkout, "flows/evaluate.py"))
        names = stage_names(workspace.path)
        report = workspace.path / workspace.paths().evaluation_report
        try:
            build_stages(workspace, names[: names.index(_STAGE) + 1], log, run, tracker)
        except BaseException:
            tracker.end(run, finished=False)
            raise
        validation = workspace.path / workspace.paths().validation_report
        figures = read_figures(report, validation)
        tracker.log_numbers(run, figures.numbers)
        page = NightPage(name, "evaluated in depth; nothing was decided", run, figures=figures)
        tracker.describe(run, describe_night(page))
        tracker.log_predictions(run, report)
        tracker.end(run, finished=True)
    return report


def _check(base: Workspace) -> None:
    """Check that a night was run with the base's rows and models, and none was erased since.

    Raises:
        ConfigError: it was not, or a row that was erased is back.
    """
    paths = base.paths()
    needed = (paths.raw, *paths.frozen)
    missing = [name for name in needed if not (base.path / name).exists()]
    if missing:
        raise ConfigError(
            f"{base.path} holds no {', '.join(missing)}; expected what a night leaves there, since "
            "it is that night's models that are evaluated",
            "run `nightloom run` first, with the same --preset and --set",
        )
    if came_back(make_promoter(base.checkout), base):
        raise ConfigError(
            f"{base.path} holds rows that were erased: a backup brought them back, perhaps. They "
            "may be in nothing that is made",
            "run `nightloom run` first, with the same --preset and --set: it erases them again",
        )
