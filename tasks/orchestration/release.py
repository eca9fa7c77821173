"""The release of a bundle: registered, judged, and the aliases moved."""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.orchestration.process import run_child
from tasks.orchestration.registry import (
    MODELS,
    PROMPT_TAG,
    STAGE_TAG,
    Alias,
    Model,
    Registry,
    Version,
    promotion_key,
)
from tasks.orchestration.stages import StageError
from tasks.orchestration.stores import RunRef
from tasks.promotion.decision import Decision, decide
from tasks.promotion.params import Params, PromotionParams
from tasks.records.hashing import text_sha256
from tasks.records.prompt_files import DEMONSTRATIONS, TEMPLATE
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import METRICS_FILE, read_metrics
from tasks.stage.outputs import file_sha256
from tasks.stage.params import load_params

VERDICT_TAG = "verdict"
JUDGED_TAG = "judged_by"


@dataclass(frozen=True)
class Judgement:
    """What was decided about one version; unchanged where it had been judged before."""

    version: Version
    verdict: Literal["promoted", "refused", "unchanged"]
    reasons: tuple[str, ...]


@task(task_run_name="register", cache_policy=NO_CACHE, persist_result=False)
def register(
    root: Path, bundle: Path, store: Path, run: RunRef, registry: Registry, *, prompt: int
) -> list[Version]:
    """Each model's version of the bundle: the one that exists, else a new `candidate`.

    `prompt` is the version of the prompt in MLflow's prompt registry; a new version's tag says it.

    Raises:
        StageError: the bundle does not answer.
    """
    key = promotion_key(bundle)
    known = {model: registry.find(model, key) for model in MODELS}
    new = [model for model, version in known.items() if version is None]
    temporary = root / ".nightloom" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="models-", dir=temporary))
    try:
        if new:
            _save(new, root, bundle, folder, store)
        made = {model: registry.register(model, key, folder / model, run) for model in new}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for model, version in made.items():
        registry.tag(version, {PROMPT_TAG: str(prompt)})
        registry.point(model, "candidate", version.number)
        get_run_logger().info("%s: registered as version %d", model, version.number)
    return [version or made[model] for model, version in known.items()]


@task(task_run_name="register-prompt", cache_policy=NO_CACHE, persist_result=False)
def register_prompt(prompt: Path, run: RunRef, registry: Registry) -> int:
    """The version in MLflow's prompt registry of the prompt that a bundle's models learned.

    It is known by the hash of the template and of the demonstrations shown with it.
    """
    parts = [(prompt / name).read_text(encoding="utf-8") for name in (TEMPLATE, DEMONSTRATIONS)]
    number = registry.register_prompt(parts[0], text_sha256(*parts), run)
    get_run_logger().info("the prompt is version %d", number)
    return number


def _save(models: Sequence[Model], root: Path, bundle: Path, folder: Path, store: Path) -> None:
    """Write the bundle as MLflow models in `folder`, in a child that loads and asks each once."""
    logger = get_run_logger()
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        logger.info("%s", line)

    command = [sys.executable, "-m", "tasks.orchestration.registry", "--bundle", str(bundle)]
    command += ["--models", *models, "--folder", str(folder), "--store", str(store)]
    if run_child(command, root, on_line) != 0:
        last = "\n".join(lines[-12:])
        raise StageError(
            f"the bundle could not be written as {' and '.join(models)} that answer:\n{last}",
            "mend what these lines name; `python -m tasks.serving --help` asks a bundle directly",
            "RegistrationError",
        )


@task(task_run_name="decide-{version.model}", cache_policy=NO_CACHE, persist_result=False)
def judge(
    version: Version,
    root: Path,
    evaluation_report: Path,
    curation_report: Path,
    registry: Registry,
) -> Judgement:
    """The verdict on a version, which its tags then carry; a judged one keeps its own.

    It is judged again where the rules changed, or what was found of leaks.
    """
    logger = get_run_logger()
    params_file = root / "params" / "promotion.yaml"
    judged_by = text_sha256(file_sha256(params_file), _leak_evidence(curation_report))
    if version.tags.get(JUDGED_TAG) == judged_by:
        text = f"nothing new: {version.model} version {version.number} is this very bundle and was "
        return Judgement(version, "unchanged", (f"{text}{version.tags[VERDICT_TAG]} before",))
    params: PromotionParams = load_params(Params, [params_file]).promotion
    reigning = reigning_name(registry, version.model)
    decision = decide(
        params, evaluation_report, curation_report, model=version.model, reigning=reigning
    )
    promoted = decision.verdict == "promote"
    reasons = _reasons(decision)
    for reason in reasons:
        logger.info("%s", reason)
    if promoted and params.staging == "automatic":
        move_to_staging(registry, version)
    if promoted and params.production == "automatic":
        promote(registry, version.model, version.number)
    verdict: Literal["promoted", "refused"] = "promoted" if promoted else "refused"
    # Last: a night that dies before this line judges the version again.
    registry.tag(
        version,
        {VERDICT_TAG: verdict, "reasons": json.dumps(reasons)[:4000], JUDGED_TAG: judged_by},
    )
    return Judgement(version, verdict, reasons)


def _leak_evidence(curation_report: Path) -> str:
    """What curation found of leaks, as text; empty where it left nothing, for `decide` to say."""
    if not (curation_report / METRICS_FILE).exists():
        return ""
    return json.dumps(read_metrics(curation_report).get("leaks"), sort_keys=True)


def _reasons(decision: Decision) -> tuple[str, ...]:
    """What decided: every rule that refused, else every rule; what warns is told in any case."""
    refused = [item for item in decision.reasons if not item.passed and not item.warns]
    warned = [item for item in decision.reasons if not item.passed and item.warns]
    told = [*refused, *warned] if refused else decision.reasons
    return tuple(f"{decision.model}: {reason.text}" for reason in told)


def reigning_name(registry: Registry, model: Model) -> str | None:
    """`ALIAS:NUMBER` of the version that reigns; None where that is the base."""
    aliases = registry.aliases(model)
    for alias in ("production", "staging"):
        if alias in aliases:
            return f"{alias}:{aliases[alias]}"
    return None


def move_to_staging(registry: Registry, version: Version) -> None:
    """Let `staging` name a version; the one that it named before is archived."""
    aliases = registry.aliases(version.model)
    registry.point(version.model, "staging", version.number)
    registry.tag(version, {STAGE_TAG: "staging"})
    before = aliases.get("staging")
    if before not in (None, version.number, aliases.get("production")):
        registry.tag(registry.version(version.model, aliases["staging"]), {STAGE_TAG: "archived"})


def promote(registry: Registry, model: Model, number: int | None) -> Version:
    """The version that `production` then names: the given one, else that of `staging`.

    Raises:
        ConfigError: there is no such version.
    """
    aliases = registry.aliases(model)
    if number is None and "staging" not in aliases:
        raise ConfigError(
            f"no version of the {model} is in staging; found aliases {_shown(aliases)}",
            "run `nightloom run` until a night is promoted, or name one with `--version N`",
        )
    version = registry.version(model, number if number is not None else aliases["staging"])
    _enthrone(registry, version, aliases)
    return version


def roll_back(registry: Registry, model: Model) -> Version:
    """The version that `production` named before, which it then names again.

    Raises:
        ConfigError: nothing was in production before.
    """
    aliases = registry.aliases(model)
    if "previous" not in aliases:
        raise ConfigError(
            f"no version of the {model} was in production before; found aliases {_shown(aliases)}",
            "roll back only after a second `nightloom promote`",
        )
    version = registry.version(model, aliases["previous"])
    _enthrone(registry, version, aliases)
    return version


def _enthrone(registry: Registry, version: Version, aliases: dict[str, int]) -> None:
    before = aliases.get("production")
    if before == version.number:
        return
    if before is not None:
        previous: Alias = "previous"
        registry.point(version.model, previous, before)
    registry.point(version.model, "production", version.number)
    registry.tag(version, {STAGE_TAG: "production"})
    if before is not None:
        registry.tag(registry.version(version.model, before), {STAGE_TAG: "archived"})


def _shown(aliases: dict[str, int]) -> str:
    return ", ".join(f"{name} -> {number}" for name, number in aliases.items()) or "none"


def all_aliases(registry: Registry) -> dict[str, dict[str, int]]:
    """Model -> alias -> version number."""
    return {model: registry.aliases(model) for model in MODELS}
