"""Reranking: a cross-encoder orders what was found, alike in evaluation and in what is served."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.answering.loading import open_answerer
from tasks.answering.release_bundle import BundleSettings
from tasks.embedding.embedder import Embedder
from tasks.evaluation.requests import Retriever
from tasks.indexing.__main__ import Paths, choose_reranker, run
from tasks.indexing.params import Params
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.orchestration.base_model import is_resolved
from tasks.packaging.assembly import Parts, assemble
from tasks.records.schema import Message
from tasks.retrieval.index import Index, RerankerSettings
from tasks.retrieval.reranking import Reranker
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.params import ModelSource, read_yaml
from tests.unit.conftest import Tiny, record

CPU = torch.device("cpu")
QUESTIONS = [record(number).question for number in range(4)]


def make_cross_encoder(folder: Path, tiny: Tiny, *, labels: int = 1, head: bool = True) -> Path:
    """A classifier with random weights and the tiny base's tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    weights = ModelManifest.read(tiny.base).folder(tiny.store)
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = BertConfig(
        vocab_size=3000,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,  # so that scores differ
        num_labels=labels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = BertForSequenceClassification(config)
        (model if head else model.bert).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross_encoder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cross_encoder(tmp_path_factory.mktemp("reranker") / "cross", tiny)


@pytest.fixture(scope="module")
def reranker(cross_encoder: Path) -> Reranker:
    return Reranker.load(cross_encoder, device=CPU)


@pytest.fixture(scope="module")
def embedder(tiny: Tiny) -> Embedder:
    return Embedder.load(tiny.embedder, tiny.store, device=CPU)


def params(prompting: Any, compute: Any, reranking: dict[str, Any]) -> Params:
    indexing = read_yaml(Path("params/indexing.yaml"))
    files = {"indexing": indexing, "reranking": reranking}
    return Params.model_validate(files | {"prompting": prompting, "compute": compute})


@pytest.fixture(scope="module")
def reranked(
    tiny: Tiny,
    cross_encoder: Path,
    prompting: Any,
    compute: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An index, made by the stage, that names the cross-encoder by its folder."""
    root = tmp_path_factory.mktemp("reranked")
    convert(str(cross_encoder), None, "reranker", tiny.store).write(root / "reranker.json")
    paths = Paths(
        curated=tiny.curated,
        base=tiny.base,
        retriever=tiny.retriever,
        reranker=root / "reranker.json",
        model_store=tiny.store,
        scratch=root / "scratch",
        index=root / "index",
        indexing_report=root / "report",
    )
    source = {"source": str(cross_encoder), "revision": None}
    run(params(prompting, compute, {"model": source, "passages": 6}), paths)
    assert read_metrics(root / "report")["reranked_passages"] == 6
    assert f"`{cross_encoder}`, whose order counts" in (root / "report" / "report.md").read_text()
    return root


def test_a_score_is_the_models_own_whatever_stands_beside_the_pair(reranker: Reranker) -> None:
    questions = ["short", "a much longer question than the other one", "왜?"]
    texts = ["one passage " * 6, "two", "세 번째"]
    together = reranker.score(questions, texts)
    for at, (question, text) in enumerate(zip(questions, texts, strict=True)):
        pair = reranker.tokenizer(question, text, return_tensors="pt")
        with torch.inference_mode():
            alone = float(reranker.model(**pair).logits[0, 0])
        assert together[at] == pytest.approx(alone, abs=1e-5)
    assert reranker.score([], []).shape == (0,)


def test_a_pair_longer_than_the_model_is_cut(reranker: Reranker) -> None:
    assert reranker.max_tokens == 64
    (score,) = reranker.score(["q"], ["word " * 500])
    assert abs(score) < 1e6


def test_the_best_are_read_and_stand_in_the_rerankers_order(
    reranked: Path, tiny: Tiny, embedder: Embedder, reranker: Reranker
) -> None:
    index = Index.load(reranked / "index")
    plain = replace(index, settings=index.settings.model_copy(update={"reranker": None}))
    fused = plain.search(QUESTIONS, 10, embedder)
    found = index.with_reranker(tiny.store, CPU).search(QUESTIONS, 10, embedder)
    changed = 0
    for question, before, after in zip(QUESTIONS, fused, found, strict=True):
        best = [item.passage for item in before[:6]]
        scores = reranker.score([question] * 6, [passage.shown for passage in best])
        order = sorted(range(6), key=lambda at: -scores[at])
        assert [item.passage for item in after[:6]] == [best[at] for at in order]
        assert after[6:] == before[6:]
        changed += [item.passage for item in after] != [item.passage for item in before]
    assert changed


def test_how_many_are_asked_for_does_not_change_which_come_first(
    reranked: Path, tiny: Tiny, embedder: Embedder
) -> None:
    index = Index.load(reranked / "index").with_reranker(tiny.store, CPU)
    many, few = (index.search(QUESTIONS, count, embedder) for count in (10, 2))
    assert [ranked[:2] for ranked in many] == few


def test_what_is_served_finds_what_was_evaluated(
    reranked: Path, tiny: Tiny, prompting: Any, models: Any, compute: Any, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    settings = BundleSettings(prompting=prompting, models=models, compute=compute)
    parts = Parts(tiny.adapter, tiny.student, reranked / "index", tiny.base, tiny.retriever)
    assemble(bundle, parts, settings)
    index = Index.load(reranked / "index")
    retriever = Retriever.of(index, 2, embedder=tiny.embedder, store=tiny.store, device=CPU)
    evaluated = retriever.find([record(number) for number in range(4)])
    answerer = open_answerer(bundle, tiny.store, "student")
    answers = answerer.answer([[Message("user", question)] for question in QUESTIONS])
    assert [answer.passages for answer in answers] == [tuple(found[:2]) for found in evaluated]


def test_an_index_is_not_searched_without_its_reranker(reranked: Path, embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match=r"reranker .*cross, which is not in memory"):
        Index.load(reranked / "index").search(QUESTIONS, 1, embedder)


def test_a_reranker_that_the_store_lacks_is_refused_by_name(reranked: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reranker .*cross \(.{12}\), which is not in"):
        Index.load(reranked / "index").with_reranker(tmp_path, CPU)


def test_an_index_of_the_format_before_has_no_reranker(
    reranked: Path, tiny: Tiny, tmp_path: Path, embedder: Embedder
) -> None:
    shutil.copytree(reranked / "index", tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    content = json.loads(path.read_text()) | {"format": 2}
    del content["reranker"]
    path.write_text(json.dumps(content))
    index = Index.load(tmp_path / "index")
    assert index.with_reranker(tiny.store, CPU) is index
    assert index.search(QUESTIONS, 1, embedder)


def test_a_classifier_of_several_classes_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = make_cross_encoder(tmp_path / "classes", tiny, labels=3)
    with pytest.raises(ConfigError, match="has 3 outputs; expected one"):
        Reranker.load(folder, device=CPU)


def test_a_head_that_would_be_made_up_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = make_cross_encoder(tmp_path / "headless", tiny, head=False)
    with pytest.raises(ConfigError, match=r"lacks 2 weights, classifier\.bias"):
        Reranker.load(folder, device=CPU)


def test_a_score_that_is_not_finite_is_refused(reranker: Reranker) -> None:
    head = reranker.model.classifier
    before = head.bias.data.clone()
    head.bias.data.fill_(float("nan"))
    try:
        with pytest.raises(DataError, match="score that is not finite, the first 'p'"):
            reranker.score(["q"], ["p"])
    finally:
        head.bias.data.copy_(before)


def test_a_manifest_of_another_model_than_params_name_is_refused(
    tiny: Tiny, prompting: Any, compute: Any, tmp_path: Path
) -> None:
    named = ModelSource(source="./cross", revision=None)
    chosen = params(prompting, compute, {"model": named, "passages": 6}).reranking
    paths = Paths(*[tmp_path] * 3, tiny.reranker, *[tmp_path] * 4)
    with pytest.raises(ConfigError, match=r"reranker \./cross, .* stands for no model"):
        choose_reranker(chosen, paths, CPU)
    assert not is_resolved(named, tiny.reranker, tiny.store)


def test_settings_come_back_from_the_index(reranked: Path, tiny: Tiny) -> None:
    settings = Index.load(reranked / "index").settings.reranker
    assert isinstance(settings, RerankerSettings)
    assert settings.folder(tiny.store).is_dir()
    assert settings.digest == json.loads((reranked / "reranker.json").read_text())["digest"]
