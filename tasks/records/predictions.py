"""Predictions and likelihoods: the rows that an evaluation leaves as evidence.

A prediction is what one system answered to one record in one mode, with its scores. A
likelihood is how likely one system finds a record's reference answer."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow
from pyarrow import parquet

from tasks.records.schema import FEEDBACK_SPLIT
from tasks.stage.errors import DataError

PREDICTIONS_FILE = "predictions.parquet"

# A student and its control, which had no teacher: folders below a student's own, and systems.
Role = Literal["student", "control"]

ROLES: tuple[Role, Role] = ("student", "control")

# In these every record is asked, and its own answer is right.
MODES = ("closed_book", "retrieved", "oracle")

# Wrong passages alone, so that abstaining is right; one passage that gives orders among the others.
DISTRACTOR, INJECTED = "distractor", "injected"

# Held-out feedback with the passages that are retrieved, as it is served. No rule reads it.
FEEDBACK = FEEDBACK_SPLIT

ALL_MODES = (*MODES, DISTRACTOR, INJECTED, FEEDBACK)

# Scores of an answer in words against its reference alone; null of no row of task answer.
SCORE_NAMES = ("exact_match", "token_f1", "rouge_l", "chrf")

# The score of an answer that is a label, and how likely the model found it. Files of task classify
# have these columns, and none of the scores above: their rows hold null there.
LABEL_SCORE, LABEL_LIKELY = "accuracy", "probability"

# Scores that summaries alone have. Files of task summarize have these columns; of the scores of
# words their rows hold ROUGE-L.
SUMMARY_SCORES = ("rouge_1", "rouge_2", "compression", "supported_terms", "supported_sentences")
SUMMARY_COUNT = "numbers_and_names"

# Which turn of its conversation a row answers. Files of task chat have this column: of one record
# their rows are several, and a conversation's score is the mean over them.
TURN = "turn"
# Scores and counts that turns which may call tools alone have. Files of task tools have these
# columns, and none of the scores of words.
CALL_SCORES = ("turn_score", "call_match", "name_match", "words_f1")
CALL_COUNTS = ("calls", "broken_calls", "unoffered_calls")

# Every score that systems can be compared by.
COMPARED_SCORES = (*SCORE_NAMES, LABEL_SCORE, CALL_SCORES[0])

# Scores that a row may not have: no reference, no passages, no claim or no marker to score.
NULLABLE_SCORES = ("length_ratio", "groundedness", "attribution", "citation")

_TEXTS = ("system", "mode", "record", "slice", "question", "reference", "output", "prompt_sha256")

# Columns of older files, which are read over: milliseconds inside a batch. Other work on the
# machine changes them, and nobody waits so long.
BATCH_TIMES = ("first_token_ms", "latency_ms")

_PREDICTION_SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in _TEXTS]
    # Parquet's own name for what a list holds, so that the type comes back as it went.
    + [("retrieved", pyarrow.list_(pyarrow.field("element", pyarrow.string())))]
    + [(name, pyarrow.float64()) for name in (*SCORE_NAMES, *NULLABLE_SCORES)]
    + [(name, pyarrow.int64()) for name in ("unsupported", "new_tokens")]
    + [("is_cut", pyarrow.bool_())]
)

_LABEL_COLUMNS = [(name, pyarrow.float64()) for name in (LABEL_SCORE, LABEL_LIKELY)]
_SUMMARY_COLUMNS = [
    *((name, pyarrow.float64()) for name in SUMMARY_SCORES),
    (SUMMARY_COUNT, pyarrow.int64()),
]
_CALL_COLUMNS = [
    *((name, pyarrow.float64()) for name in CALL_SCORES),
    *((name, pyarrow.int64()) for name in CALL_COUNTS),
]
# The columns that a file has if its rows have this score.
_OPTIONAL_COLUMNS = {
    LABEL_SCORE: _LABEL_COLUMNS,
    SUMMARY_SCORES[0]: _SUMMARY_COLUMNS,
    TURN: [(TURN, pyarrow.int64())],
    CALL_SCORES[0]: _CALL_COLUMNS,
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer of one system in one mode.

    `retrieved` are the ids of the passages in the prompt, best first. Scores are in [0, 1] but for
    `length_ratio`, the answer's tokens over its reference's; what None means for each is told in
    `tasks.scoring.grounding`. `unsupported` counts the numbers and names that stand neither in
    the passages nor in the question. `new_tokens` does not count the end token; `is_cut` says that
    the answer met its bound before it ended. A label has `accuracy`, 1 where it is the right one,
    and none of the scores of words; `probability` is the model's own among all labels.
    A summary has the six fields from `rouge_1` on, told in `tasks.scoring.summary_scores`, where
    `unsupported` counts those that its source lacks. `turn` is the number of a turn of task chat
    among the assistant's, from 1; `record` is then its conversation. A turn that may call tools has
    the last seven, told in `tasks.scoring.call_scores`.
    """

    system: str
    mode: str
    record: str
    slice: str
    question: str
    reference: str
    output: str
    prompt_sha256: str
    retrieved: tuple[str, ...]
    exact_match: float | None
    token_f1: float | None
    rouge_l: float | None
    chrf: float | None
    length_ratio: float | None
    groundedness: float | None
    unsupported: int
    attribution: float | None
    citation: float | None
    new_tokens: int
    is_cut: bool
    accuracy: float | None = None
    probability: float | None = None
    rouge_1: float | None = None
    rouge_2: float | None = None
    compression: float | None = None
    supported_terms: float | None = None
    supported_sentences: float | None = None
    numbers_and_names: int | None = None
    turn: int | None = None
    turn_score: float | None = None
    call_match: float | None = None
    name_match: float | None = None
    words_f1: float | None = None
    calls: int | None = None
    broken_calls: int | None = None
    unoffered_calls: int | None = None

    def score(self, name: str) -> float:
        """Return the score of that name.

        Raises:
            DataError: this row has none.
        """
        value = getattr(self, name)
        if value is None:
            raise DataError(
                f"record {self.record} of {self.system} in mode {self.mode} has no {name}; "
                "expected a score on every record",
                f"choose one of {', '.join(COMPARED_SCORES)}",
            )
        return float(value)


def by_record(rows: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    """Return rows of one system and mode by their record: of task chat a conversation's turns, of
    other tasks one row.

    Raises:
        DataError: two rows are of the same record and turn.
    """
    found: dict[str, list[Prediction]] = {}
    for row in rows:
        known = found.setdefault(row.record, [])
        if known and (row.turn is None or row.turn in [one.turn for one in known]):
            raise DataError(
                f"{row.system} has two answers to record {row.record} in mode {row.mode}; expected "
                "one each, or nobody knows which is compared",
                "compare the rows of one mode at a time, and look for ids that two records share",
            )
        known.append(row)
    return found


def record_scores(rows: Iterable[Prediction], name: str) -> dict[str, float]:
    """Return a score by record, of rows of one system and mode; a conversation's is the mean of its
    turns, for these are not independent of each other.

    Raises:
        DataError: a row has none, or two are of the same record and turn.
    """
    return {
        record: sum(row.score(name) for row in own) / len(own)
        for record, own in by_record(rows).items()
    }


def last_turns(rows: Iterable[Prediction]) -> list[Prediction]:
    """Return rows but those of a conversation's earlier turns, by system and mode."""
    found: dict[tuple[str, str, str], Prediction] = {}
    for row in rows:
        key = row.system, row.mode, row.record
        if key not in found or (row.turn or 0) > (found[key].turn or 0):
            found[key] = row
    return list(found.values())


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions into a Parquet file.

    Raises:
        DataError: a text cannot be written as UTF-8.
    """
    names = [field.name for field in fields(Prediction)]
    rows = [{name: getattr(row, name) for name in names} for row in predictions]
    for row in rows:
        _check_texts(row)
    schema = _PREDICTION_SCHEMA
    for score, columns in _OPTIONAL_COLUMNS.items():
        if any(row[score] is not None for row in rows):
            schema = pyarrow.schema([*schema, *pyarrow.schema(columns)])
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def _check_texts(row: dict[str, object]) -> None:
    """Refuse half a surrogate pair, which Python holds and no encoding does."""
    for name in _TEXTS:
        try:
            str(row[name]).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the {name} of record {row['record']!a}, system {row['system']!a} in mode "
                f"{row['mode']!a} holds half a surrogate pair at character {error.start}, which is "
                "no text and cannot be kept",
                "look at the tokenizer's decoding of that output, or at the record itself",
            ) from error


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a file that `write_predictions` wrote, in its order.

    Raises:
        DataError: the file is no Parquet, or its columns are not those of predictions.
    """
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(
            f"{path} is no whole Parquet file ({error}); expected a table of predictions",
            "run `dvc checkout`, or `nightloom run`, which evaluates again",
        ) from error
    check_schema(path, table.schema)
    known = {field.name for field in fields(Prediction)}
    rows = table.select([name for name in table.column_names if name in known]).to_pylist()
    return [Prediction(**row | {"retrieved": tuple(row["retrieved"])}) for row in rows]


def check_schema(path: Path, found: pyarrow.Schema) -> None:
    """Refuse a file whose columns are not those of predictions.

    Raises:
        DataError: they are not.
    """
    have = {field.name: str(field.type) for field in found if field.name not in BATCH_TIMES}
    want = {field.name: str(field.type) for field in _PREDICTION_SCHEMA}
    for score, columns in _OPTIONAL_COLUMNS.items():
        if score in have:
            want |= {name: str(kind) for name, kind in columns}
    wrong = [
        *(f"no {name}" for name in want if name not in have),
        *(f"{name} is unknown" for name in have if name not in want),
        *(f"{n} is {have[n]}, not {t}" for n, t in want.items() if have.get(n, t) != t),
    ]
    if wrong:
        raise DataError(
            f"{path} does not hold predictions as this version writes them: {', '.join(wrong)}; "
            "scores that are not there cannot be compared",
            "run `nightloom run`, which evaluates again, or read it with the version that wrote it",
        )


LIKELIHOODS_FILE = "likelihoods.parquet"

_LIKELIHOOD_SCHEMA = pyarrow.schema(
    [
        ("system", pyarrow.string()),
        ("record", pyarrow.string()),
        ("slice", pyarrow.string()),
        ("log_likelihood", pyarrow.float64()),
        ("tokens", pyarrow.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The log-probability that one system gives a record's reference answer, closed book.

    `log_likelihood` is summed over the answer's tokens and its end of turn, in nats; `tokens` says
    how many these are, in the system's own tokenizer.
    """

    system: str
    record: str
    slice: str
    log_likelihood: float
    tokens: int


def write_likelihoods(path: Path, rows: Iterable[Likelihood]) -> None:
    """Write likelihoods into a Parquet file."""
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=_LIKELIHOOD_SCHEMA)
    parquet.write_table(table, path)


def read_likelihoods(path: Path) -> list[Likelihood]:
    """Return the likelihoods of a file that `write_likelihoods` wrote, in its order."""
    return [
        Likelihood(**row) for row in parquet.read_table(path, schema=_LIKELIHOOD_SCHEMA).to_pylist()
    ]
