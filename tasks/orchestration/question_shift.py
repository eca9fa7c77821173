"""Question shift: are people asking what the model was trained on, and does it answer them?"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.feedback.params import Params
from tasks.feedback.served import ServedQuestion
from tasks.scoring.abstentions import all_abstentions
from tasks.scoring.answer_scores import abstains
from tasks.services.processes import printed_failure, run_child
from tasks.services.stores import Stores
from tasks.stage.errors import NightloomError
from tasks.stage.params import load_params, read_yaml

_MOST = 2000
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class ShiftPlace:
    """The workspace, and of what is compared: the splits, the embedder, the models, a folder."""

    root: Path
    curated: Path
    embedder: Path
    store: Path
    scratch: Path


@task(task_run_name="question-shift", cache_policy=NO_CACHE, persist_result=False)
def question_shift(stores: Stores, place: ShiftPlace) -> str | None:
    """Return what the last day's served questions say, in a sentence; None where there are none.

    What goes wrong is told in the log and stops no night.
    """
    # Deferred: MLflow takes seconds to import.
    from tasks.feedback.traces import ServedTraces

    try:
        served = list(ServedTraces(stores).questions(datetime.now(UTC) - _DAY))
    except NightloomError as error:
        get_run_logger().warning("question shift: %s", error.message)
        return None
    if not served:
        return None
    distance = _distance([one.exchange.question for one in served], place)
    bound = load_params(Params, [place.root / "params" / "serving.yaml"])
    markers = all_abstentions(read_yaml(place.root / "params" / "evaluation.yaml"))
    text = told(served, distance, markers, bound.serving.max_question_distance)
    get_run_logger().info("%s", text)
    return text


def told(
    served: Sequence[ServedQuestion],
    distance: float | None,
    markers: Sequence[str],
    bound: float | None,
) -> str:
    """Return it in a sentence; a distance above the bound, where there is one, is a warning."""
    unanswered = sum(
        abstains(one.exchange.answer, markers) or not one.exchange.answer.strip() for one in served
    )
    text = (
        f"{len(served)} questions were served in the last day, {unanswered / len(served):.0%} of "
        "them without an answer"
    )
    if distance is None:
        return f"{text}; their distance to the training data could not be measured"
    text += f"; their distance to the training data is {distance:.3f} (0 is alike)"
    if bound is not None and distance > bound:
        return f"warning of question shift: {text}; at most {bound:.3f} is asked for"
    return text


def _distance(questions: Sequence[str], place: ShiftPlace) -> float | None:
    """Return the distance, measured in a child: it needs torch. None where it could not be."""
    place.scratch.mkdir(parents=True, exist_ok=True)
    file = place.scratch / "served_questions.json"
    try:
        file.write_text(json.dumps(questions, ensure_ascii=False), encoding="utf-8")
        command = [sys.executable, "-m", "tasks.answering.question_shift", "--most", str(_MOST)]
        command += ["--params", str(place.root / "params" / "compute.yaml")]
        command += ["--embedder", str(place.embedder), "--store", str(place.store)]
        command += ["--curated", str(place.curated), "--questions", str(file)]
        child = run_child(command, place.root)
    finally:  # what people asked lies in MLflow alone
        file.unlink(missing_ok=True)
    if child.code != 0:
        get_run_logger().warning("question shift: %s", printed_failure(child).message)
        return None
    return float(json.loads(child.lines[-1])["distance"])
