"""A change of scoring changes its version: what these answers score is part of it."""

from math import log
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.evaluation.params import Params
from tasks.evaluation.requests import Request
from tasks.evaluation.system_run import score_answer
from tasks.lexical.chunking import Passage
from tasks.records.schema import Message, Record
from tasks.scoring.answer_scores import abstains
from tasks.scoring.identity import SCORING_VERSION, scoring_name, scoring_sha256
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import log_likelihoods, perplexity
from tasks.stage.params import load_params

MARKERS = ["I don't know", "I do not know"]
PASSAGES = (
    "json.dumps serializes an object to a JSON formatted string. It raises TypeError for 3 types.",
    "서울은 대한민국의 수도이다.",
)
# Answer, reference.
ANSWERS = [
    ("json.dumps: serialize", "JSON.dumps: serialize"),
    ("Serializes an object to a JSON string [1].", "Serialize obj to a JSON formatted string."),
    ("서울은 수도이다", "서울은 대한민국의 수도이다."),
    ("I don’t know.", "I don't know"),
    ("It raises ValueError for 4 types", "It raises TypeError for 3 types"),
    ("", "東京"),
    ("東京都", "東京"),
    ("Returns -1 of *args, 50% if x < 0", "Return 1 of args, 50 if x > 0"),
]
NAMES = (
    "exact_match", "token_f1", "rouge_l", "chrf", "length_ratio", "groundedness", "unsupported",
    "attribution", "citation", "abstains",
)  # fmt: skip
# Version -> the scores of each answer by it.
GOLDEN = {
    2: [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0, 1.0, None, 0.0],
        [0.0, 0.533333, 0.533333, 0.492158, 1.142857, 1.0, 0, 1.0, 1.0, 0.0],
        [0.0, 0.736842, 0.736842, 0.246181, 0.583333, 1.0, 0, 0.0, None, 0.0],
        [1.0, 1.0, 1.0, 0.471845, 1.0, None, 0, None, None, 1.0],
        [0.0, 0.666667, 0.666667, 0.599301, 1.0, 0.666667, 2, 1.0, None, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, None, 0, None, None, 0.0],
        [0.0, 0.8, 0.8, 0.875, 1.5, 0.0, 0, 0.0, None, 0.0],
        [0.0, 0.526316, 0.526316, 0.504344, 1.111111, 0.0, 3, 0.0, None, 0.0],
    ],
}


def scores(output: str, reference: str) -> list[float | None]:
    messages = (Message("user", "What does json.dumps do?"), Message("assistant", reference))
    record = Record("r", messages, ("d0",), "all", "r", "", "", "1")
    shown = tuple(Passage(f"d{n}#0", f"d{n}", "", text) for n, text in enumerate(PASSAGES))
    found = score_answer(output, Request(record, "retrieved", shown, reference), MARKERS)
    values = {**found, "abstains": float(abstains(output, MARKERS))}
    return [None if values[name] is None else round(values[name], 6) for name in NAMES]


def test_the_same_answers_get_the_scores_that_their_version_gave() -> None:
    """Where this fails, scores mean something else now: raise SCORING_VERSION, add its values."""
    assert [scores(*pair) for pair in ANSWERS] == GOLDEN[SCORING_VERSION]


def test_a_likelihood_is_the_sum_over_the_answers_tokens_alone() -> None:
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.nn.init.zeros_(model.lm_head.weight)  # so that each token has the probability 1 / 11
    examples = [
        Example("a", "all", "1", "closed_book", "a", (1, 2, 3, 4, 5), 2),
        Example("b", "all", "1", "closed_book", "b", (1, 2, 9), 2),
    ]
    found = log_likelihoods(model, examples, max_tokens=64)
    assert found == pytest.approx([-3 * log(11), -log(11)], rel=1e-6)
    assert perplexity(sum(found), 4) == pytest.approx(11)


BEFORE_VERSIONS = "20fcf67eae779ed8e31e540a04ee18aeab266594b04419fad3ef5dba1f4fe4a5"


def test_what_was_scored_before_there_was_a_version_is_known_as_version_one() -> None:
    """Champions of 718988b, scored with the default markers; they are scored again."""
    params = load_params(Params, [Path(f"params/{name}.yaml") for name in Params.model_fields])
    markers = params.evaluation.abstentions
    assert scoring_sha256(markers, 1) == BEFORE_VERSIONS != scoring_sha256(markers)
    assert scoring_name(BEFORE_VERSIONS, markers) == "version 1 of the scoring"
    assert scoring_name(scoring_sha256(["other"], 1), ["other"]) == "version 1 of the scoring"
    today = scoring_name(scoring_sha256(markers), markers)
    assert today == f"version {SCORING_VERSION} of the scoring"


@pytest.mark.parametrize("sha256", ["f" * 64, None])
def test_a_scoring_that_is_not_known_is_named_by_its_hash(sha256: str | None) -> None:
    assert scoring_name(sha256, MARKERS) == f"another scoring ({str(sha256)[:12]})"


def test_other_markers_are_another_scoring() -> None:
    assert len({scoring_sha256(markers) for markers in (MARKERS, MARKERS[:1], ["모릅니다"])}) == 3
