"""Speed: the release's models timed in turns with their base, while nothing else of ours runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.promotion.params import Params
from tasks.promotion.speed import SPEED_FILE, Speed
from tasks.records.schema import ServedModel
from tasks.services.processes import printed_failure, run_child, stage_error
from tasks.stage.params import load_params


@task(task_run_name="speed", cache_policy=NO_CACHE, persist_result=False)
def speed(
    root: Path, bundle: Path, store: Path, models: Sequence[ServedModel], target: Path
) -> Speed | None:
    """Return the speed of a bundle's models, measured in one child; write `target/speed.json`.

    Run it while no stage runs and no version is served. Where params/promotion.yaml turns the rule
    `latency` off, nothing is measured and no file is left.

    Raises:
        NightloomError: the models can't be loaded; it says why.
    """
    logger, file = get_run_logger(), target / SPEED_FILE
    file.unlink(missing_ok=True)  # an earlier release's, maybe of another bundle
    rules = load_params(Params, [root / "params" / "promotion.yaml"]).promotion
    if not rules.rules.latency.enabled:
        logger.info("speed is not measured: params/promotion.yaml turns latency off")
        return None
    command = [sys.executable, "-m", "tasks.serving.speed"]
    command += ["--bundle", str(bundle), "--store", str(store), "--models", *models]
    command += ["--confidence", str(rules.confidence), "--resamples", str(rules.resamples)]
    command += ["--seed", str(rules.seed), "--output", str(file)]
    child = run_child(command, root, logger.info)
    if child.code != 0:
        raise stage_error("speed", printed_failure(child))
    found = Speed.read(file)
    for model in models:
        logger.info("%s", found.summary(model))
    return found
