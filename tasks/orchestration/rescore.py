"""The champion and those before it on tonight's test split: as scored there, or scored again.

Also how many decisions the records of that split have taken part in."""

import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.tracking import Tracker
from tasks.promotion.evidence import (
    MEASURED_FILES,
    SCORED_FILES,
    ChampionFiles,
    EarlierFiles,
    UnscoredChampion,
    UseFiles,
    decided_mode,
    value_at,
)
from tasks.promotion.params import Params, PromotionParams
from tasks.prompting.files import PROMPT
from tasks.records.language import data_language
from tasks.records.schema import ServedModel, stream_records
from tasks.records.text import text_sha256
from tasks.registry.audit import foreign_version_error
from tasks.registry.client import Registry
from tasks.registry.ledger import Ledger
from tasks.registry.promote import other_champion, recent_champions
from tasks.registry.record_use import count_decisions
from tasks.registry.versions import Version, promotion_key
from tasks.scoring.abstentions import abstentions_for
from tasks.scoring.identity import scoring_name
from tasks.scoring.record_hashes import hash_asked, write_hashes
from tasks.services.processes import left_failure, run_child, stage_error
from tasks.stage.errors import ConfigError, DataError, NightloomError
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256, verified
from tasks.stage.params import load_params, read_yaml
from tasks.task_types.table import TrainedTask, evaluated_task

_STAGE = "evaluation.rescoring"


@dataclass(frozen=True)
class Tonight:
    """What a rescoring needs to know of tonight; `evaluation` and `packaging` are its reports."""

    root: Path
    evaluation: Path
    packaging: Path
    curated: Path
    model_store: Path
    scratch: Path


@task(task_run_name="rescore-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def rescore(
    version: Version, tonight: Tonight, registry: Registry, tracker: Tracker
) -> ChampionFiles | UnscoredChampion | None:
    """Return how the champion does on tonight's test split; None if no other version is champion.

    What its own night recorded is used where that was the very same split, scored alike; else its
    bundle is scored again, once for a bundle, split and way of scoring: the report is kept in
    scratch, which may be deleted at any time. One whose bundle is gone or does not fit is told as
    such, for the verdict to say.

    Raises:
        NightloomError: the scoring itself failed, which may pass.
    """
    logger = get_run_logger()
    champion = other_champion(registry, version)
    if champion is None:
        logger.info("%s: no other version is champion", version.model)
        return None
    try:
        held = registry.version(version.model, champion.number)
        return _on_tonight(held, champion.name, _rules(tonight), tonight, registry, tracker)
    except (ConfigError, DataError) as error:
        logger.warning("%s could not be scored: %s", champion.name, error)
        return UnscoredChampion(champion.name, error.message.partition("\n")[0])


@task(task_run_name="rescore-earlier-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def rescore_earlier(
    version: Version, tonight: Tonight, ledger: Ledger, tracker: Tracker
) -> EarlierFiles:
    """Return how the other champions of the last nights do on tonight's test split.

    Of many, `anchor_versions` are taken, spread evenly over these nights. One that cannot be scored
    is told with its reason, and stops no night.
    """
    registry, params = ledger.registry, _rules(tonight)
    champion = other_champion(registry, version)
    others = {version.number, None if champion is None else champion.number}
    champions = recent_champions(ledger, version.model, params.anchor_nights)
    numbers = [number for number in champions if number not in others]
    scored, unscored = [], {}
    for number in spread_evenly(numbers, params.anchor_versions):
        name = f"version {number}"
        try:
            held = registry.version(version.model, number)
            if not held.key:
                raise foreign_version_error(held)
            scored.append(_on_tonight(held, name, params, tonight, registry, tracker))
        except Exception as error:  # noqa: BLE001 - whatever it is, the night can do without
            told = error.message if isinstance(error, NightloomError) else str(error)
            unscored[name] = told.partition("\n")[0]
            get_run_logger().warning("%s cannot be the anchor: %s", name, unscored[name])
    return EarlierFiles(tuple(scored), unscored)


def spread_evenly(numbers: Sequence[int], most: int) -> list[int]:
    """Return at most so many of the numbers, in their order: the last one, and others evenly.

    The last one is the oldest champion, from which losses have added up for longest.
    """
    if len(numbers) <= most:
        return list(numbers)
    step = len(numbers) / most
    return [numbers[math.ceil(step * (place + 1)) - 1] for place in range(most)]


def _rules(tonight: Tonight) -> PromotionParams:
    found: Params = load_params(Params, [tonight.root / "params" / "promotion.yaml"])
    return found.promotion


def _on_tonight(
    held: Version,
    name: str,
    params: PromotionParams,
    tonight: Tonight,
    registry: Registry,
    tracker: Tracker,
) -> ChampionFiles:
    """Return how a version does on tonight's test split: as its night found it, or scored now."""
    mode = decided_mode(params, read_metrics(tonight.evaluation))
    found = _recorded(held, name, mode, tonight, tracker)
    if found is not None:
        get_run_logger().info("%s: scored on tonight's test split by its own night", name)
        return found
    bundle = registry.bundle(held.model, held.number, tonight.scratch / "bundles")
    _check_task(bundle / held.model / PROMPT, name, tonight)
    report = _scored(bundle, name, held.model, mode, tonight)
    return ChampionFiles(name, report, held.model, report, held.model)


def _check_task(prompt: Path, name: str, tonight: Tonight) -> None:
    """Check that a version was trained for tonight's task.

    Raises:
        ConfigError: it was not, so no score of both can be compared.
    """
    task, now = TrainedTask.read(prompt), evaluated_task(read_metrics(tonight.evaluation))
    if task.name != now.name:
        raise ConfigError(
            f"{name} was trained for task {task.name}, tonight's for {now.name}: no score of both "
            "can be compared",
            "where the task was changed on purpose, `nightloom promote` moves a version by hand "
            "once, and the next ones are compared with it",
        )


def _recorded(
    champion: Version, name: str, mode: str, tonight: Tonight, tracker: Tracker
) -> ChampionFiles | None:
    """Return what its own night found of a version, if that can be compared with tonight's."""
    target = tonight.scratch / "nights" / champion.run_id
    if not target.exists():
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for stage, files in (
                (tonight.evaluation.name, SCORED_FILES),
                (tonight.packaging.name, MEASURED_FILES),
            ):
                place = partial / stage
                if not tracker.download_report(champion.run_id, stage, files, place):
                    return None
        except ConfigError as error:  # the run was deleted; the version is there and can be scored
            get_run_logger().warning("%s: %s", name, error.message)
            return None
        partial.rename(target)
    report, likely = target / tonight.evaluation.name, target / tonight.packaging.name
    then = read_metrics(report)
    system = value_at(then, "offered", "system") if champion.model == "student" else champion.model
    alike = _split(report, likely) == _split(tonight.evaluation, tonight.packaging)
    if not alike:
        get_run_logger().info("%s: %s", name, _difference(then, tonight))
    if not alike or mode not in (value_at(then, "systems", str(system)) or {}):
        return None
    return ChampionFiles(name, report, str(system), likely, champion.model)


def _difference(then: Mapping[str, Any], tonight: Tonight) -> str:
    """Return how its own night's evaluation cannot be compared with tonight's."""
    hashes = [
        value_at(metrics, "test_split", "scoring_sha256")
        for metrics in (then, read_metrics(tonight.evaluation))
    ]
    if hashes[0] == hashes[1]:
        return "its own night had another test split"
    names = [scoring_name(found, _abstentions(tonight)) for found in hashes]
    return f"its own night was scored by {names[0]}, tonight by {names[1]}"


def _abstentions(tonight: Tonight) -> list[str]:
    """Return how tonight's answers abstain: evaluation finds the same."""
    params = tonight.root / "params"
    language = data_language(read_yaml(params / "prompting.yaml")["language"], tonight.curated)
    values = read_yaml(params / "evaluation.yaml")
    return abstentions_for(language, values["abstentions"], values["abstentions_in"])


def _split(evaluation: Path, packaging: Path) -> dict[str, object]:
    """Return what tells a night's test split, and how it was scored, from another's."""
    return {
        **(read_metrics(evaluation).get("test_split") or {}),
        "likelihood_sha256": read_metrics(packaging).get("likelihood_sha256"),
    }


def _scored(bundle: Path, name: str, model: ServedModel, mode: str, tonight: Tonight) -> Path:
    """Return the report of a bundle's model on tonight's test split: the kept one, else a new."""
    logger = get_run_logger()
    split = _split(tonight.evaluation, tonight.packaging)
    key = text_sha256(
        promotion_key(bundle),
        model,
        mode,
        file_sha256(tonight.curated / "test.jsonl"),
        *(f"{name}={value}" for name, value in sorted(split.items())),
    )
    report = tonight.scratch / "rescored" / key
    if report.exists():
        try:
            return verified(report)
        except DataError as error:
            logger.warning("scoring again what is no longer whole: %s", error.message)
    logger.info("scoring %s (%s) again on tonight's test split", name, model)
    with tempfile.TemporaryDirectory(prefix="nightloom-") as folder:
        _score(bundle, model, mode, tonight, Path(folder), report)
    return report


def _score(
    bundle: Path, model: ServedModel, mode: str, tonight: Tonight, folder: Path, report: Path
) -> None:
    """Run the evaluation package on a bundle in a child; `folder` is for its params."""
    params = tonight.root / "params"
    # Asked as tonight's systems are, in the mode that is decided on.
    values = read_yaml(params / "evaluation.yaml") | {
        "primary_mode": mode,
        "abstentions": _abstentions(tonight),
        "abstentions_in": {},
    }
    evaluation = folder / "evaluation.yaml"
    evaluation.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", f"tasks.{_STAGE}"]
    command += ["--params", str(evaluation), str(params / "compute.yaml")]
    for option, path in (
        ("curated", tonight.curated),
        ("model_store", tonight.model_store),
        ("bundle", bundle / model),
        ("scratch", tonight.scratch),
        ("rescore_report", report),
    ):
        command += [f"--{option}", str(path)]
    child = run_child(command, tonight.root, get_run_logger().info)
    if child.code != 0:
        raise stage_error("rescoring", left_failure(tonight.scratch / _STAGE, child))
    if not (report / METRICS_FILE).exists():
        raise DataError(f"rescoring left no {report / METRICS_FILE}", "read its lines above")


@task(task_run_name="count-record-use", cache_policy=NO_CACHE, persist_result=False)
def count_record_use(ledger: Ledger, test: Path, folder: Path) -> UseFiles:
    """Return files in `folder` that list a test split's records and count their decisions so far.

    The ledger keeps the list, for the entries of tonight's decisions to name.
    """
    records = hash_asked((row.id, row.question, row.answer) for row in stream_records(test))
    files = UseFiles(folder / "test_records.npy", folder / "record_use.json")
    folder.mkdir(parents=True, exist_ok=True)
    write_hashes(files.records, records)
    ledger.keep_file(files.records)
    found = count_decisions(ledger, records, folder / "kept")
    found.write(files.counts)
    get_run_logger().info("%s", found.told)
    return files
