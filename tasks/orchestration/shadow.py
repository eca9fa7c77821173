"""Shadow: a candidate answers the last days' served questions beside its champion."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.feedback.exchanges import ReplayedAnswer
from tasks.feedback.params import Params, ShadowParams
from tasks.feedback.served import ServedQuestion
from tasks.feedback.worth import groundedness
from tasks.promotion.shadow import SHADOW_FILE, ModelShadow, Shadow, ShadowSide
from tasks.records.schema import ServedModel
from tasks.scoring.abstentions import all_abstentions
from tasks.scoring.answer_scores import abstains, token_f1
from tasks.services.processes import printed_failure, run_child, stage_error
from tasks.services.stores import Stores
from tasks.stage.errors import NightloomError
from tasks.stage.params import load_params, read_yaml

if TYPE_CHECKING:
    from tasks.feedback.traces import ServedTraces

# So many of those that differ most are kept beside their question, for people to look at.
_KEPT = 50


@dataclass(frozen=True)
class Sides:
    """A candidate's and its champion's bundle and name (`adapter-4`), and the champion's alias."""

    candidate: Path
    candidate_name: str
    champion: Path
    champion_alias: str


@dataclass(frozen=True)
class ShadowPlace:
    """The workspace, the base models, and a folder for what is left."""

    root: Path
    store: Path
    target: Path


@task(task_run_name="shadow", cache_policy=NO_CACHE, persist_result=False)
def shadow(
    sides: Mapping[ServedModel, Sides], bundle_sha256: str, stores: Stores, place: ShadowPlace
) -> Shadow | None:
    """Return how candidates answer served questions beside their champions; write `shadow.json`.

    Nothing is written where no question was served in the days that params name. The answers that
    differ most are kept with their traces: people find them in the review queue.

    Raises:
        NightloomError: a bundle can't be loaded; it says why.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.traces import ServedTraces

    logger, file = get_run_logger(), place.target / SHADOW_FILE
    file.unlink(missing_ok=True)  # an earlier release's
    params = load_params(Params, [place.root / "params" / "serving.yaml"]).serving.shadow
    traces = ServedTraces(stores)
    since = datetime.now(UTC) - timedelta(days=params.days)
    served = list(traces.questions(since))
    found = {}
    for model in sides:
        asked = choose_questions(served, model, params)
        one = _beside_champion(model, sides, asked, traces, place) if asked else None
        if one is not None:
            found[model] = one
            logger.info("%s", one.summary(model))
    if not found:
        logger.info(
            "no question was served in the last %d days, or there is no champion", params.days
        )
        return None
    result = Shadow(bundle_sha256=bundle_sha256, days=params.days, models=found)
    result.write(file)
    return result


def _beside_champion(
    model: ServedModel,
    sides: Mapping[ServedModel, Sides],
    asked: Sequence[ServedQuestion],
    traces: "ServedTraces",
    place: ShadowPlace,
) -> ModelShadow | None:
    """Return what a candidate answers beside its champion, None where that can't be loaded."""
    both = sides[model]
    own = _replayed(both.candidate, model, asked, place)
    try:
        champions = _replayed(both.champion, model, asked, place)
    except NightloomError as error:
        get_run_logger().warning("%s can't be asked: %s", both.champion_alias, error.message)
        return None
    told = {both.candidate_name: most_different(asked, own, champions)}
    if model == "adapter" and (student := sides.get("student")) is not None:
        students = _replayed(student.candidate, "student", asked, place)
        told[student.candidate_name] = most_different(asked, students, own)
    for name, rows in told.items():
        for question, answer in rows[:_KEPT]:
            traces.add_other_answer(question.trace, name, answer.text)
    markers = all_abstentions(read_yaml(place.root / "params" / "evaluation.yaml"))
    return compare(asked, own, champions, markers, both.champion_alias)


def choose_questions(
    served: Iterable[ServedQuestion], model: ServedModel, params: ShadowParams
) -> list[ServedQuestion]:
    """Return the questions that a model was asked last, each conversation once, at most so many."""
    oldest_first = sorted(served, key=_asked)
    latest = {one.exchange.turns: one for one in oldest_first if one.exchange.model == model}
    return sorted(latest.values(), key=_asked, reverse=True)[: params.questions]


def _asked(question: ServedQuestion) -> datetime:
    return question.exchange.asked


def compare(
    asked: Sequence[ServedQuestion],
    candidate: Sequence[ReplayedAnswer],
    champion: Sequence[ReplayedAnswer],
    markers: Sequence[str],
    name: str,
) -> ModelShadow:
    """Return what two versions' answers to the same questions come to."""
    differing = sum(
        one.text.strip() != other.text.strip()
        for one, other in zip(candidate, champion, strict=True)
    )
    return ModelShadow(
        champion=name,
        questions=len(asked),
        differing=differing,
        candidate_side=_side(asked, candidate, markers),
        champion_side=_side(asked, champion, markers),
    )


def most_different(
    asked: Sequence[ServedQuestion],
    candidate: Sequence[ReplayedAnswer],
    champion: Sequence[ReplayedAnswer],
) -> list[tuple[ServedQuestion, ReplayedAnswer]]:
    """Return the questions whose answers differ, with the candidate's, the most different first."""
    rows = zip(asked, candidate, champion, strict=True)
    apart = [
        (token_f1(one.text, other.text), question, one)
        for question, one, other in rows
        if one.text.strip() != other.text.strip()
    ]
    return [(question, answer) for _, question, answer in sorted(apart, key=lambda row: row[0])]


def _side(
    asked: Sequence[ServedQuestion], answers: Sequence[ReplayedAnswer], markers: Sequence[str]
) -> ShadowSide:
    grounded = []
    for question, answer in zip(asked, answers, strict=True):
        share = groundedness(question.exchange.question, answer.text, answer.passages, markers)
        if share is not None:
            grounded.append(share)
    return ShadowSide(
        abstained=sum(abstains(answer.text, markers) for answer in answers),
        groundedness=sum(grounded) / len(grounded) if grounded else None,
    )


def _replayed(
    bundle: Path, model: ServedModel, asked: Sequence[ServedQuestion], place: ShadowPlace
) -> list[ReplayedAnswer]:
    """Return what a bundle's model answers to the questions, in a child: it needs torch."""
    folder = place.target / "shadow"
    folder.mkdir(parents=True, exist_ok=True)
    questions, answers = folder / "questions.jsonl", folder / "answers.jsonl"
    try:
        lines = (json.dumps(question.exchange.turns, ensure_ascii=False) for question in asked)
        questions.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        command = [sys.executable, "-m", "tasks.answering.replay", "--model", model]
        command += ["--bundle", str(bundle), "--store", str(place.store)]
        command += ["--questions", str(questions), "--answers", str(answers)]
        child = run_child(command, place.root, get_run_logger().info)
        if child.code != 0:
            raise stage_error("shadow", printed_failure(child))
        text = answers.read_text(encoding="utf-8")
        return [ReplayedAnswer.model_validate_json(line) for line in text.splitlines()]
    finally:  # what people asked lies in MLflow alone
        questions.unlink(missing_ok=True)
        answers.unlink(missing_ok=True)
