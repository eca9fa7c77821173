"""How fast a system answered, and what it takes."""

from collections.abc import Sequence

import numpy as np

from tasks.records.predictions import Prediction
from tasks.stage.errors import DataError


def speed(rows: Sequence[Prediction], seconds: float) -> dict[str, float]:
    """Quantiles of time to the first and the last token, and tokens a second, over some answers.

    Times are in milliseconds from when a row's prompt first went into the model, among as many rows
    as are decoded together. `seconds` is what reading and answering each prompt of the rows once
    took; of the tokens those count that are in the answers: no padding, no end tokens. So systems
    with shorter answers have fewer a second.

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
    found = {"tokens_per_second": sum(tokens.values()) / seconds}
    for name, times in (
        ("first_token_ms", [row.first_token_ms for row in rows]),
        ("latency_ms", [row.latency_ms for row in rows]),
    ):
        p50, p95 = np.quantile(times, [0.5, 0.95])
        found |= {f"{name}_p50": float(p50), f"{name}_p95": float(p95)}
    return found
