"""Golden answers: the bundle, loaded as it will be served, says what evaluation heard."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from tasks.records.predictions import Prediction
from tasks.records.record import Record
from tasks.serving.answering import Answer, Answerer
from tasks.serving.bundle import ServedModel, load_answerer
from tasks.stage.errors import DataError, GateError

GOLDEN_FILE = "golden.json"
SERVED_MODELS: tuple[ServedModel, ...] = get_args(ServedModel)


@dataclass(frozen=True)
class Golden:
    """One answer of the bundle beside evaluation's answer to the same record."""

    model: str
    record: str
    question: str
    reference: str
    expected: str
    answer: str
    token_ids: tuple[int, ...]
    passages: tuple[str, ...]
    prompt_sha256: str
    same_prompt: bool

    @property
    def agrees(self) -> bool:
        """Whether prompt and answer are what evaluation had."""
        return self.same_prompt and self.answer == self.expected


def answer_golden(
    bundle: Path,
    store: Path,
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    heard: Mapping[ServedModel, str],
    count: int,
) -> list[Golden]:
    """The bundle's answers to the first `count` records that evaluation predicted, by model.

    `heard` names the system that evaluation knows each served model as.

    Served models retrieve when there are documents, so their peers are evaluation's answers in
    mode retrieved, or closed_book without documents.

    Raises:
        DataError: evaluation predicted none of the records.
    """
    mode = "retrieved" if any(row.mode == "retrieved" for row in predictions) else "closed_book"
    expected = {(row.system, row.record): row for row in predictions if row.mode == mode}
    asked = [record for record in records if ("adapter", record.id) in expected][:count]
    if not asked:
        raise DataError(
            "evaluation predicted none of the test split's records, so the bundle has nothing to "
            "be compared with",
            "run `nightloom run`, so that evaluation and packaging see the same split",
        )
    golden: list[Golden] = []
    for model in SERVED_MODELS:
        answers = _answer(load_answerer(bundle, store, model), asked)
        for record, answer in zip(asked, answers, strict=True):
            golden.append(_compare(model, record, answer, expected[heard[model], record.id]))
    return golden


def _answer(answerer: Answerer, records: Sequence[Record]) -> list[Answer]:
    """The answers of one model, which leaves memory with this call."""
    return answerer.answer([record.messages[:-1] for record in records])


def _compare(model: str, record: Record, answer: Answer, expected: Prediction) -> Golden:
    return Golden(
        model=model,
        record=record.id,
        question=record.question,
        reference=record.answer,
        expected=expected.output,
        answer=answer.text,
        token_ids=answer.token_ids,
        passages=tuple(item.passage.id for item in answer.passages),
        prompt_sha256=answer.prompt_sha256,
        same_prompt=answer.prompt_sha256 == expected.prompt_sha256,
    )


def parity(golden: Sequence[Golden], max_mismatch: float) -> dict[str, float]:
    """The share of each model's golden answers that agree with evaluation's.

    Raises:
        GateError: more than `max_mismatch` of a model's answers differ.
    """
    shares: dict[str, float] = {}
    for model in SERVED_MODELS:
        rows = [item for item in golden if item.model == model]
        differing = [item for item in rows if not item.agrees]
        shares[model] = 1 - len(differing) / len(rows)
        if len(differing) > max_mismatch * len(rows):
            first = differing[0]
            where = "the answer" if first.same_prompt else "the prompt"
            raise GateError(
                f"the {model} in the bundle differs from what evaluation heard on {len(differing)} "
                f"of {len(rows)} records; at most {max_mismatch:.0%} may. In {first.record}, "
                f"{where} differs: {first.answer!r} instead of {first.expected!r}. What is served "
                "must be what was scored",
                "run `dvc repro --force --single-item evaluation` and packaging again; if they "
                "still differ, report it with both outputs",
            )
    return shares


def write_golden(bundle: Path, golden: Sequence[Golden]) -> None:
    """Write `golden.json`: what the bundle is known to answer."""
    rows = [asdict(item) for item in golden]
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    (bundle / GOLDEN_FILE).write_text(text, encoding="utf-8")
