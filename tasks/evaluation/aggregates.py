"""Numbers over the predictions of one system in one mode: means, abstention, grounding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.records.predictions import ALL_MODES, SCORE_NAMES, Prediction
from tasks.records.text import BROKEN
from tasks.scoring.answer_scores import Metrics, abstention_scores, length_metrics, null
from tasks.scoring.grounding import GROUNDING_METRICS, Grounding, grounding_means
from tasks.stage.errors import DataError
from tasks.statistics.bootstrap import Interval

if TYPE_CHECKING:
    from tasks.evaluation.system_run import SystemResult

# Whether an answer, or a reference, says that it does not know.
Abstains = Callable[[str], bool]


# The share of so many of all records, with its interval.
ShareInterval = Callable[[int, int], Interval]


class AnswerMetrics:
    """The scores among the metrics beside this file, loaded once through `evaluate`."""

    def __init__(self) -> None:
        """Load them; `evaluate` takes seconds to import, so it is imported here alone."""
        import evaluate

        path = str(Path(__file__).with_name("metrics.py"))
        self._combined = evaluate.combine(
            [evaluate.load(path, name, keep_in_memory=True) for name in SCORE_NAMES]
        )

    @classmethod
    @cache
    def load(cls) -> "AnswerMetrics":
        """Return them, loaded once a process."""
        return cls()

    def compute(self, outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Return the mean of every score.

        Raises:
            DataError: one of them gave no number.
        """
        found = self._combined.compute(predictions=list(outputs), references=list(references))
        missing = [name for name in SCORE_NAMES if found.get(name) is None]
        if missing:
            raise DataError(
                f"the metrics gave no {', '.join(missing)}; every score is needed",
                "run tests/unit/scoring/test_answer_scores.py",
            )
        return {name: float(found[name]) for name in SCORE_NAMES}


def system_metrics(
    results: "Mapping[str, SystemResult[Any]]",
    grouped: Mapping[str, Mapping[str, Sequence[Prediction]]],
    mode: str,
    summarise: Callable[[Sequence[Prediction]], Metrics],
    abstains: Abstains | None,
    interval: ShareInterval,
) -> dict[str, Any]:
    """Return what each system scores, takes and how often it abstains, as `metrics.json` holds it.

    Results and predictions are by system, under the same names, and there may be predictions of a
    baseline that is no result; `mode` is the primary one. `summarise` tells the scores of the rows
    of one system in one mode; `abstains` is None where no answer can.
    """
    return {
        "systems": {
            system: {name: summarise(rows) for name, rows in modes.items()}
            for system, modes in grouped.items()
        },
        "sizes": {name: _size(found, grouped[name][mode]) for name, found in results.items()},
        "abstention_shares": abstention_shares(grouped, abstains, interval) if abstains else {},
    }


def _size(result: "SystemResult[Any]", rows: Sequence[Prediction]) -> Metrics:
    """Return what a system takes, and its throughput over these rows, which are its first
    group's."""
    name, peak = "peak_megabytes", result.peak_megabytes
    return {
        "parameters": result.parameters,
        "megabytes": result.megabytes,
        **(null(name, "this system does not tell it") if peak is None else {name: peak}),
        **throughput(rows, result.first_group_seconds),
    }


def by_system_and_mode(
    predictions: Sequence[Prediction],
) -> dict[str, dict[str, list[Prediction]]]:
    """Return predictions by system, as they come, and by mode in its usual order; none is empty."""
    grouped: dict[str, dict[str, list[Prediction]]] = {row.system: {} for row in predictions}
    for mode in ALL_MODES:
        for row in predictions:
            if row.mode == mode:
                grouped[row.system].setdefault(mode, []).append(row)
    return grouped


def row_metrics(rows: Sequence[Prediction], abstains: Abstains) -> Metrics:
    """Return what the rows of one system in one mode say beside the scores of `AnswerMetrics`."""
    length = length_metrics([row.output for row in rows], [row.reference for row in rows])
    return {**length, **abstention(rows, abstains), **_grounding(rows), **outcome_metrics(rows)}


def outcome_metrics(rows: Sequence[Prediction]) -> Metrics:
    """Return how answers ended.

    `broken_outputs` and `cut_outputs` are the shares of answers that hold bytes which are no
    character, and that met their bound before they ended.
    """
    return {
        "broken_outputs": sum(BROKEN in row.output for row in rows) / len(rows),
        "cut_outputs": sum(row.is_cut for row in rows) / len(rows),
    }


def abstention(rows: Sequence[Prediction], abstains: Abstains) -> Metrics:
    """Return precision and recall of saying "I don't know" where the reference says so."""
    given = [abstains(row.output) for row in rows]
    wanted = [abstains(row.reference) for row in rows]
    return abstention_scores(given, wanted)


def abstention_shares(
    grouped: Mapping[str, Mapping[str, Sequence[Prediction]]],
    abstains: Abstains,
    interval: ShareInterval,
) -> dict[str, Any]:
    """Return, by system, mode and kind of record, how often it abstained, with its interval.

    The kinds are `unanswerable`, where the reference abstains and 1 is best, and `answerable`,
    where 0 is; a kind without records is left out.
    """
    return {
        system: {mode: _abstention_share(rows, abstains, interval) for mode, rows in modes.items()}
        for system, modes in grouped.items()
    }


def _abstention_share(
    rows: Sequence[Prediction], abstains: Abstains, interval: ShareInterval
) -> dict[str, Any]:
    given: dict[str, list[bool]] = {"unanswerable": [], "answerable": []}
    for row in rows:
        kind = "unanswerable" if abstains(row.reference) else "answerable"
        given[kind].append(abstains(row.output))
    found: dict[str, dict[str, Any]] = {}
    for kind, answers in given.items():
        if answers:
            found[kind] = asdict(interval(sum(answers), len(answers)))
            found[kind]["records"] = len(answers)
    return found


def _grounding(rows: Sequence[Prediction]) -> Metrics:
    shown = [
        Grounding(row.groundedness, row.unsupported, row.attribution, row.citation)
        for row in rows
        if row.retrieved
    ]
    return grounding_means(shown, GROUNDING_METRICS)


def throughput(rows: Sequence[Prediction], seconds: float) -> dict[str, float]:
    """Return how many tokens a second came out of decoding rows in batches, on this machine.

    `seconds` is what reading and answering each prompt of the rows once took; of the tokens those
    count that are in the answers: no padding, no end tokens. So systems with shorter answers have
    fewer a second. Other work on the machine changes it: no rule reads it.

    Raises:
        DataError: there are no rows, or decoding them took no time.
    """
    if not rows or seconds <= 0:
        raise DataError(
            f"{len(rows)} answers in {seconds} seconds; expected at least one and a time above 0",
            "ask each system at least one question in the primary mode",
        )
    # Records with the same prompt share one decoding.
    tokens = {row.prompt_sha256: row.new_tokens for row in rows}
    return {"throughput_tokens_per_second": sum(tokens.values()) / seconds}
