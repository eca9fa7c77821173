"""The baseline of task classify: a linear model over TF-IDF of words, trained in seconds.

It learns the training split whole and sees no passages. Its words are those that scores compare,
Han, kana and Hangul by character. The same data give the same model.
"""

import logging
import time
from collections.abc import Sequence

from tasks.answering.pipeline import prompt_sha256
from tasks.evaluation.requests import Request
from tasks.evaluation.system_run import score_label
from tasks.records.predictions import Prediction
from tasks.records.schema import Record
from tasks.scoring.tokens import answer_tokens
from tasks.stage.errors import DataError
from tasks.task_types.classify import LINEAR

LOGGER = logging.getLogger(__name__)
# Words and pairs of words, the most frequent ones; a weight that suits few rows a label.
_PAIRS, _MOST_FEATURES, _WEIGHT, _STEPS = (1, 2), 50_000, 20.0, 1000


def linear_predictions(train: Sequence[Record], requests: Sequence[Request]) -> list[Prediction]:
    """Return the labels that a linear model trained on a split gives to requests, with their
    probabilities.

    Raises:
        DataError: the training split has one label, or no word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    started = time.monotonic()
    words = TfidfVectorizer(
        ngram_range=_PAIRS,
        sublinear_tf=True,
        max_features=_MOST_FEATURES,
        tokenizer=answer_tokens,
        token_pattern=None,
        lowercase=False,
    )
    model = LogisticRegression(C=_WEIGHT, max_iter=_STEPS)
    try:
        seen = words.fit_transform([record.question for record in train])
        model.fit(seen, [record.answer for record in train])
    except ValueError as error:
        raise DataError(
            f"no linear model can be trained on the {len(train)} training records: {error}; it is "
            "what task classify compares the adapter with",
            "take in rows of two labels at least, whose questions hold words",
        ) from None
    shares = model.predict_proba(words.transform([item.record.question for item in requests]))
    best = shares.argmax(axis=1)
    LOGGER.info("linear baseline: %.1f s", time.monotonic() - started)
    return [
        _prediction(item, str(model.classes_[place]), float(row[place]))
        for item, place, row in zip(requests, best, shares, strict=True)
    ]


def _prediction(request: Request, label: str, probability: float) -> Prediction:
    record = request.record
    return Prediction(
        system=LINEAR,
        mode=request.mode,
        record=record.id,
        slice=record.slice,
        question=record.question,
        reference=request.reference,
        output=label,
        prompt_sha256=prompt_sha256(()),
        retrieved=(),
        new_tokens=0,
        is_cut=False,
        probability=probability,
        **score_label(label, request),
    )
