"""How far served questions are from those that were trained on: one number, by an embedder.

It is 1 minus the cosine of the two sets' mean vectors: 0 where they are about the same, as far as
the embedder sees it. Of a larger set the texts are chosen by their hash.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.records.schema import stream_records
from tasks.records.text import text_sha256
from tasks.stage.errors import NightloomError
from tasks.stage.params import ComputeParams, StageParams, load_params


class _Params(StageParams):
    compute: ComputeParams


def question_distance(
    served: Sequence[str],
    trained: Sequence[str],
    manifest: Path,
    store: Path,
    compute: ComputeParams,
) -> float:
    """Return the distance of two sets of questions, in [0, 2].

    Raises:
        ConfigError: the embedder can't be loaded.
    """
    from tasks.embedding.embedder import Embedder
    from tasks.models.loading import prepare_device

    embedder = Embedder.load(manifest, store, device=prepare_device(compute))
    first, second = (embedder.encode(list(texts)).mean(axis=0) for texts in (served, trained))
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(1 - cosine)


def chosen(texts: Sequence[str], most: int) -> list[str]:
    """Return at most so many of the texts, the same ones whatever their order."""
    distinct = sorted(set(texts), key=lambda text: text_sha256("shift", text))
    return distinct[:most]


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 with the distance on stdout, 1 with the reason."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.answering.question_shift", description=__doc__
    )
    parser.add_argument("--params", type=Path, required=True, help="params/compute.yaml")
    parser.add_argument("--embedder", type=Path, required=True, help="its manifest")
    parser.add_argument("--store", type=Path, required=True, help="the folder of models")
    parser.add_argument("--curated", type=Path, required=True, help="the folder of the splits")
    parser.add_argument("--questions", type=Path, required=True, help="served ones, JSON texts")
    parser.add_argument("--most", type=int, required=True, help="questions of each kind")
    options = parser.parse_args(arguments)
    served = json.loads(options.questions.read_text(encoding="utf-8"))
    trained = [record.question for record in stream_records(options.curated / "train.jsonl")]
    near, far = (chosen(texts, options.most) for texts in (served, trained))
    try:
        compute = load_params(_Params, [options.params]).compute
        found = question_distance(near, far, options.embedder, options.store, compute)
    except NightloomError as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print(json.dumps({"distance": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
