"""Weights are chosen on validation questions: a tie moves none, a half of noise is left out."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.answering.loading import open_answerer
from tasks.answering.release_bundle import verify_bundle
from tasks.embedding.embedder import Embedder
from tasks.evaluation.retrieval_metrics import rank_metrics
from tasks.indexing.params import IndexingParams, Params
from tasks.indexing.weight_choice import WeightChoice, asked_records, choose_weights
from tasks.lexical.chunking import Passage
from tasks.records.schema import Message, Record, read_records
from tasks.records.text import text_sha256
from tasks.retrieval.dense import DenseIndex
from tasks.retrieval.fusion import Halves, Weights
from tasks.retrieval.index import FORMAT, Index, IndexSettings
from tasks.serving.memory import needed_bytes
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files
from tasks.stage.params import read_yaml
from tests.builders.conversations import write_conversations
from tests.builders.indexes import index_into
from tests.builders.korean import write_korean
from tests.builders.packaging import package, packaging_params
from tests.unit.conftest import score_night, write_curated

QUESTIONS = 120
PASSAGES = 400
USUAL = Weights(2.0, 1.0)


def params(**choice: Any) -> IndexingParams:
    values = read_yaml(Path("params/indexing.yaml"))
    values["choice"] |= {"resamples": 2000} | choice
    return IndexingParams.model_validate(values)


def index() -> Index:
    settings = IndexSettings(
        format=FORMAT,
        embedder="e" * 64,
        documents=PASSAGES,
        passages=PASSAGES,
        passages_sha256="",
        passage_words=9,
        passage_overlap_words=1,
        candidates=50,
        rank_constant=5,
        lexical_weight=2.0,
        dense_search="exact",
        dense_recall=1.0,
    )
    passages = tuple(Passage(f"d{n}#0", f"d{n}", "", str(n)) for n in range(PASSAGES))
    return Index(settings, passages, None, DenseIndex(np.empty((0, 2), np.float32), None))


def records(count: int = QUESTIONS) -> list[Record]:
    turns = (Message("user", "?"), Message("assistant", "!"))
    return [Record(f"r{n}", turns, (f"d{n}",), "s", f"r{n}", "", "", "n1") for n in range(count)]


def ranked(record: int, found: bool, draws: np.random.Generator) -> list[int]:
    """Fifty places in any order, that of the record's document first or nowhere."""
    others = [int(at) for at in draws.permutation(PASSAGES) if at != record][:49]
    return [record, *others] if found else others


def choose(
    lexical: Callable[[int], bool],
    dense: Callable[[int], bool],
    *,
    count: int = QUESTIONS,
    **how: Any,
) -> WeightChoice:
    draws = np.random.default_rng(3)
    found = [Halves(ranked(n, lexical(n), draws), ranked(n, dense(n), draws)) for n in range(count)]
    return choose_weights(index(), records(count), found, params(**how))


def test_halves_that_find_the_same_keep_the_usual_weights() -> None:
    found = choose(lambda n: n % 4 > 0, lambda n: n % 4 > 0)
    assert (found.weights, found.reason) == (USUAL, "usual")
    assert found.off() == []


def test_halves_that_find_what_the_other_misses_are_both_of_use() -> None:
    found = choose(lambda n: n % 4 > 0, lambda n: n % 4 < 3)
    assert found.idle() == found.off() == []
    assert found.weights.lexical
    assert found.weights.dense


def test_one_question_more_or_less_moves_no_weight() -> None:
    """The fusion ranks one right passage second, and by rounding alone its interval was above 0."""
    found = choose(lambda n: True, lambda n: n > 0)
    assert (found.weights, found.reason) == (USUAL, "usual")
    draws = np.random.default_rng(1)
    halves = [Halves(ranked(n, True, draws), ranked(n, n % 2 > 0, draws)) for n in range(100)]
    first = halves[0].lexical
    halves[0] = Halves(first, [first[1], *[at for at in halves[0].dense if at not in first]])
    told = choose_weights(index(), records(100), halves, params())
    assert told.gains[Weights(1, 0)].value > 0
    assert told.weights == USUAL


def test_a_half_of_noise_is_left_out_and_named() -> None:
    found = choose(lambda n: n % 20 > 0, lambda n: n % 40 == 1)
    assert (found.weights, found.reason) == (Weights(1, 0), "noise")
    assert found.off() == ["dense"]
    assert found.alone["dense"].high < 0.1 < found.alone["lexical"].low


def test_bm25_is_left_out_as_well_where_it_is_the_noise() -> None:
    found = choose(lambda n: n % 40 == 1, lambda n: n % 20 > 0)
    assert found.weights in (Weights(0, 1), Weights(1, 2))
    assert found.reason == "better"  # the usual weights bring its noise first


def test_other_weights_are_taken_where_they_are_better_by_their_interval() -> None:
    found = choose(lambda n: n % 3 == 0, lambda n: n % 8 > 0)
    assert found.reason == "better"
    assert found.weights.dense > found.weights.lexical
    assert found.gains[found.weights].low > 0
    best = max(gain.value for gain in found.gains.values() if gain.low > 0)
    assert found.gains[found.weights].value == best
    assert choose(lambda n: n % 3 == 0, lambda n: n % 8 > 0) == found


def test_a_half_that_finds_nothing_of_its_own_is_told_and_kept() -> None:
    """Nothing is won by leaving it out either, and it is no noise."""
    found = choose(lambda n: n % 10 > 0, lambda n: n % 10 > 3)
    assert found.weights == USUAL
    assert found.idle() == ["dense"]
    assert found.adds["lexical"].low > 0


@pytest.mark.parametrize(
    ("how", "reason"), [({"least_questions": 500}, "too_few"), ({"measured": False}, "fixed")]
)
def test_what_is_measured_is_told_where_nothing_is_chosen(how: Any, reason: str) -> None:
    found = choose(lambda n: n % 20 > 0, lambda n: n % 40 == 1, **how)
    assert (found.weights, found.reason) == (USUAL, reason)
    assert found.numbers()["mrr"]["dense"]["value"] < 0.1
    assert found.idle() == ["dense"]


def test_without_a_gold_document_nothing_is_measured_and_why_is_said() -> None:
    nothing = choose_weights(index(), [], [], params())
    assert nothing.weights == USUAL
    assert nothing.numbers()["mrr"] is None
    assert "no validation record names a document" in nothing.numbers()["mrr_reason"]


def test_the_questions_are_chosen_by_hash_and_name_a_document_of_the_index() -> None:
    few = params(questions=10).choice
    gone = replace(records(1)[0], id="gone", documents=("elsewhere",))
    chosen = asked_records(index(), [*records(), gone], few)
    assert len(chosen) == 10
    assert asked_records(index(), [gone, *reversed(records())], few) == chosen
    assert gone not in asked_records(index(), [gone, *records()], params().choice)


def noise(texts: Any) -> Any:
    """Vectors that know nothing of what a text says."""
    seeds = [int(text_sha256(text)[:8], 16) for text in texts]
    rows = np.array([np.random.default_rng(seed).normal(size=16) for seed in seeds])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def korean(tmp_path: Path) -> Path:
    return write_korean(tmp_path / "curated", documents=240, questions=60)


@pytest.fixture
def night_params(prompting: Any, compute: Any) -> Params:
    names = ("task", "indexing", "reranking")
    files = {name: read_yaml(Path(f"params/{name}.yaml")) for name in names}
    long = prompting.model_copy(update={"passage_words": 40, "passage_tokens": 400})
    return Params.model_validate(files | {"prompting": long, "compute": compute})


def test_a_korean_night_whose_dense_half_is_noise_leaves_it_out_and_warns(
    tmp_path: Path,
    korean: Path,
    night_params: Params,
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Embedder, "encode", lambda self, texts, *_, **__: noise(texts))
    made = index_into(tmp_path, night_params, tiny, korean)
    assert made.settings.weights == Weights(1, 0)
    assert len(made.dense.vectors) == 0  # none travels with the bundle
    metrics = read_metrics(tmp_path / "report")
    assert metrics["weights"]["mrr"]["lexical"]["value"] > 0.9
    assert metrics["weights"]["mrr"]["dense"]["high"] < 0.2
    assert metrics["idle_halves"] == 1
    report = (tmp_path / "report" / "report.md").read_text()
    for told in (
        "The dense half is off",
        "embedded:use-multilingual-v3",
        "No question is embedded",
    ):
        assert told in report
    assert "The dense half is off" in caplog.text
    index_into(tmp_path / "again", night_params, tiny, korean)
    assert folder_files(tmp_path / "index") == folder_files(tmp_path / "again" / "index")


def test_an_index_of_bm25_alone_is_searched_without_an_embedder(
    tmp_path: Path, korean: Path, night_params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "encode", lambda self, texts, *_, **__: noise(texts))
    made = index_into(tmp_path, night_params, tiny, korean)
    monkeypatch.setattr(Embedder, "encode", None)  # a call would fail
    asked = read_records(korean / "validation.jsonl")
    found = made.search([record.question for record in asked], 10, None)
    means = rank_metrics(
        [[item.passage.document_id for item in one] for one in found],
        [record.documents for record in asked],
        [1] * len(asked),
    )
    told = read_metrics(tmp_path / "report")["weights"]["mrr"]
    assert means["mrr"] == pytest.approx(told["fused"]["value"])
    (nothing,) = made.search(["zzzz"], 5, None)
    assert nothing == []


def test_dense_search_is_not_even_measured_where_params_rule_it_out(
    tmp_path: Path, korean: Path, night_params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "load", None)  # a call would fail
    settings = night_params.indexing
    off = settings.model_copy(
        update={
            "dense_weight": 0.0,
            "choice": settings.choice.model_copy(update={"measured": False}),
        }
    )
    made = index_into(tmp_path, night_params.model_copy(update={"indexing": off}), tiny, korean)
    assert made.settings.weights == Weights(2, 0)
    assert (
        "params leave the dense half out"
        in read_metrics(tmp_path / "report")["weights"]["mrr_reason"]
    )


def by_number(texts: Any) -> Any:
    """Vectors by the number in a text's first name; a tenth of the numbers say nothing."""
    numbers = [int(found.group()) if (found := re.search(r"\d+", text)) else 0 for text in texts]
    told = [text if n % 10 == 0 else str(n) for n, text in zip(numbers, texts, strict=True)]
    return noise(told)


def test_an_english_night_with_two_useful_halves_keeps_the_weights_and_every_byte(
    tmp_path: Path, night_params: Params, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "encode", lambda self, texts, *_, **__: by_number(texts))
    write_curated(tmp_path / "curated", documents=100, records=100)
    made = index_into(tmp_path / "1", night_params, tiny, tmp_path / "curated")
    weights = read_metrics(tmp_path / "1/report")["weights"]
    assert weights["questions"] == 75
    assert weights["mrr"]["dense"]["value"] > 0.5
    assert (made.settings.weights, weights["reason"]) == (USUAL, "usual")
    settings = night_params.indexing
    fixed = settings.model_copy(
        update={"choice": settings.choice.model_copy(update={"measured": False})}
    )
    given = night_params.model_copy(update={"indexing": fixed})
    index_into(tmp_path / "2", given, tiny, tmp_path / "curated")
    found, unmeasured = (folder_files(tmp_path / name / "index") for name in "12")
    changed = [name for name in found if found[name] != unmeasured[name]]
    assert changed == ["index.json"]  # which says why


def test_both_halves_at_zero_and_pairs_of_zeros_are_refused() -> None:
    values = read_yaml(Path("params/indexing.yaml"))
    with pytest.raises(ValueError, match="lexical_weight or dense_weight must be above 0"):
        IndexingParams.model_validate(values | {"lexical_weight": 0.0, "dense_weight": 0.0})
    with pytest.raises(ValueError, match="one weight must be above 0"):
        params(alternatives=[[0.0, 0.0]])


@pytest.mark.slow
def test_evaluation_and_a_bundle_of_bm25_alone_need_no_embedder(
    tmp_path: Path,
    korean: Path,
    tiny: Any,
    prompting: Any,
    models: Any,
    compute: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = prompting.model_copy(update={"passage_words": 40, "passage_tokens": 400})
    shared = {"prompting": long, "models": models, "compute": compute}
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "encode", lambda self, texts, *_, **__: noise(texts))
        scored = score_night(tmp_path / "night", tiny, korean, shared)
    found = read_metrics(scored.report)["retrieval"]
    assert (found["lexical_weight"], found["dense_weight"]) == (1.0, 0.0)
    assert found["recall_at_1"] > 0.8
    page = (scored.report / "report.html").read_text()
    assert "BM25 alone has a mean reciprocal rank" in page
    here = replace_curated(tiny, korean)
    bundle = package(
        tmp_path / "packed", packaging_params(long, models, compute), here, scored.index,
        scored.report,
    )  # fmt: skip
    store = tmp_path / "store"
    store.mkdir()
    kept = Index.load(bundle / "index").settings
    for folder in tiny.store.iterdir():
        if folder.name != kept.embedder:
            (store / folder.name).symlink_to(folder)
    verify_bundle(bundle, store)
    answerer = open_answerer(bundle, store, "adapter")
    question = read_records(korean / "test.jsonl")[3]
    (answer,) = answerer.answer([question.messages[:-1]])
    assert answer.passages[0].passage.document_id in question.documents
    assert needed_bytes(bundle, store, "adapter") > 0
    with pytest.raises(ConfigError, match="are not in"):
        _ = answerer.embedder  # only who asks for vectors misses it


def replace_curated(tiny: Any, curated: Path) -> Any:
    """The tiny models beside another data set."""

    class Elsewhere(type(tiny)):  # type: ignore[misc]
        @property
        def curated(self) -> Path:
            return curated

    return Elsewhere(tiny.root)


def test_the_halves_of_search_are_measured_with_what_a_task_searches_by(
    tmp_path: Path, night_params: Params, tiny: Any
) -> None:
    """Follow-ups alone name no document; their conversations do."""
    write_conversations(tmp_path / "curated", tiny.curated)
    found = {}
    for name in ("answer", "chat"):
        task = night_params.task.model_copy(update={"name": name})
        params = night_params.model_copy(update={"task": task})
        index = index_into(tmp_path / name, params, tiny, tmp_path / "curated")
        assert index.settings.weights_measured is not None
        found[name] = index.settings.weights_measured
    assert found["chat"].lexical == 1.0
    assert found["answer"].lexical is not None
    assert found["answer"].lexical < 0.6
