"""Prompts and poolings of the known families give sentence-transformers' own vectors."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model, XLMRobertaConfig, XLMRobertaModel

from tasks.embedding.embedder import Embedder, longest_input, read_text_limit
from tasks.embedding.prompts import Prompts, lacks, read_prompts
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.orchestration.base_model import is_resolved
from tasks.stage.errors import ConfigError
from tasks.stage.params import EmbedderSource

CPU = torch.device("cpu")
TEXTS = ["one", "무엇이 수도인가요?", "a much longer text than the other ones here", "단어 " * 90]
INSTRUCT = "Instruct: Find it\nQuery:"


def save_encoder(folder: Path, tiny: Any, kind: Literal["bert", "xlm-roberta", "qwen3"]) -> Path:
    """A bare encoder with random weights and the tiny models' tokenizer."""
    shutil.copytree(
        tiny.root / "bert", folder, ignore=shutil.ignore_patterns("chat_template.jinja")
    )
    side = "left" if kind == "qwen3" else "right"
    AutoTokenizer.from_pretrained(folder, padding_side=side).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if kind == "bert":
        return folder
    sizes: dict[str, Any] = {
        "vocab_size": 3000, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "pad_token_id": 2,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        if kind == "qwen3":
            config = Qwen3Config(
                **sizes, num_key_value_heads=1, head_dim=8, max_position_embeddings=64
            )
            Qwen3Model(config).save_pretrained(folder)
        else:
            plain = XLMRobertaConfig(**sizes, max_position_embeddings=67)
            XLMRobertaModel(plain).save_pretrained(folder)
    return folder


def save_modules(
    folder: Path, pooling: Any, prompts: dict[str, str], default: str | None = None
) -> SentenceTransformer:
    """Save what sentence-transformers adds to an encoder; return it as that library opens it."""
    read = Transformer(str(folder), max_seq_length=64)
    modules = [read, Pooling(16, pooling), Normalize()]
    encoder = SentenceTransformer(
        modules=modules, device="cpu", prompts=prompts, default_prompt_name=default
    )
    encoder.save(str(folder), create_model_card=False, safe_serialization=True)
    return SentenceTransformer(str(folder), device="cpu")


def load(folder: Path, root: Path, **given: Any) -> Embedder:
    manifest, store = root / "embedder.json", root / "store"
    replace(convert(str(folder), None, "embedder", store), **given).write(manifest)
    return Embedder.load(manifest, store, device=CPU)


@pytest.mark.parametrize(
    ("kind", "pooling", "prompts"),
    [
        pytest.param("xlm-roberta", "mean", {"query": "query: ", "document": "passage: "}, id="E5"),
        pytest.param("bert", "cls", {"query": "Represent this: "}, id="BGE"),
        pytest.param("xlm-roberta", "cls", {}, id="BGE-M3"),
        pytest.param("qwen3", "lasttoken", {"query": INSTRUCT, "document": ""}, id="Qwen3"),
        pytest.param("bert", "max", {"query": "q: ", "document": "d: "}, id="another pooling"),
    ],
)
def test_questions_and_passages_get_the_vectors_of_sentence_transformers(
    tmp_path: Path, tiny: Any, kind: Any, pooling: Any, prompts: dict[str, str]
) -> None:
    folder = save_encoder(tmp_path / "encoder", tiny, kind)
    peer = save_modules(folder, pooling, prompts)
    embedder = load(folder, tmp_path)
    for purpose, encode in (("query", peer.encode_query), ("passage", peer.encode_document)):
        expected = encode(TEXTS, normalize_embeddings=True)
        found = embedder.encode(TEXTS, purpose=purpose)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    if prompts:
        assert not np.allclose(embedder.encode(TEXTS), embedder.encode(TEXTS, purpose="query"))


def test_prompts_named_by_params_are_those_of_koe5_whose_files_name_none(
    tmp_path: Path, tiny: Any
) -> None:
    folder = save_encoder(tmp_path / "KoE5", tiny, "xlm-roberta")
    peer = save_modules(folder, "mean", {})
    bare = load(folder, tmp_path)
    told = lacks(ModelManifest.read(tmp_path / "embedder.json"), tmp_path / "store")
    assert told is not None
    assert 'query_prompt: "query: "; passage_prompt: "passage: "' in told
    given = {"query_prompt": "query: ", "passage_prompt": "passage: "}
    embedder = load(folder, tmp_path, **given)
    assert lacks(ModelManifest.read(tmp_path / "embedder.json"), tmp_path / "store") is None
    expected = peer.encode(TEXTS, prompt="query: ", normalize_embeddings=True)
    np.testing.assert_allclose(embedder.encode(TEXTS, purpose="query"), expected, atol=1e-6)
    assert embedder.digest != bare.digest  # an index of the one is not searched with the other
    np.testing.assert_array_equal(embedder.encode(TEXTS), bare.encode(TEXTS))


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_a_bare_encoder_is_pooled_as_params_say(
    tmp_path: Path, tiny: Any, kind: Any, pooling: Any
) -> None:
    folder = save_encoder(tmp_path / "encoder", tiny, kind)
    modules = [Transformer(str(folder)), Pooling(16, pooling)]
    peer = SentenceTransformer(modules=modules, device="cpu")
    expected = peer.encode(TEXTS, normalize_embeddings=True)
    found = load(folder, tmp_path, pooling=pooling).encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_params_that_contradict_the_files_pooling_are_refused(tmp_path: Path, tiny: Any) -> None:
    folder = save_encoder(tmp_path / "encoder", tiny, "bert")
    save_modules(folder, "cls", {})
    with pytest.raises(ConfigError, match=r"pooling mean, and the embedder in .* saved with cls"):
        load(folder, tmp_path, pooling="mean")


def test_a_default_prompt_stands_before_all_texts_unless_others_are_named(
    tmp_path: Path, tiny: Any
) -> None:
    folder = save_encoder(tmp_path / "encoder", tiny, "bert")
    peer = save_modules(folder, "mean", {"all": "Text: "}, default="all")
    embedder = load(folder, tmp_path)
    assert embedder.prompts == Prompts("Text: ", "Text: ", "Text: ")
    np.testing.assert_allclose(
        embedder.encode(TEXTS), peer.encode(TEXTS, normalize_embeddings=True), atol=1e-6
    )


@pytest.mark.parametrize(
    ("prompts", "given", "expected"),
    [
        ({"query": "q: ", "passage": "p: "}, {}, ("q: ", "p: ")),
        ({"query": "q: ", "passage": "p: "}, {"query_prompt": ""}, ("", "p: ")),
        ({"query": "q: "}, {"passage_prompt": "mine: "}, ("q: ", "mine: ")),
        ({"corpus": "c: "}, {}, ("", "c: ")),
        ({"query": None, "document": None}, {}, ("", "")),
    ],
)
def test_params_come_before_files(
    tmp_path: Path, prompts: Any, given: Any, expected: tuple[str, str]
) -> None:
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": prompts}))
    found = read_prompts(ModelManifest("m", "embedder", "", None, "", "d", {}, **given), tmp_path)
    assert (found.query, found.passage) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("multilingual-e5-base", ("query: ", "passage: ")),
        ("multilingual-e5-large-instruct", ("Instruct: ",)),
        ("bge-base-en-v1.5", ("Represent this sentence", "pooling: cls")),
        ("bge-m3", ("pooling: cls",)),
        ("Qwen3-Embedding-0.6B", ("Instruct: Given a web search query", "pooling: lasttoken")),
        ("snowflake-arctic-embed-l-v2.0", ('"query: "',)),
        ("all-MiniLM-L6-v2", None),
        ("e55-of-ours", None),
    ],
)
def test_a_family_that_lacks_what_it_was_trained_with_is_told(
    tmp_path: Path, name: str, said: tuple[str, ...] | None
) -> None:
    (tmp_path / "d").mkdir()
    told = lacks(ModelManifest(name, "embedder", "", None, "", "d", {}), tmp_path)
    if said is None:
        assert told is None
        return
    assert told is not None
    assert all(part in told for part in said)
    meant = {"query_prompt": "", "passage_prompt": "", "pooling": "mean"}
    assert lacks(ModelManifest(name, "embedder", "", None, "", "d", {}, **meant), tmp_path) is None


def test_a_passage_leaves_room_for_its_prompt(tmp_path: Path, tiny: Any) -> None:
    folder = save_encoder(tmp_path / "encoder", tiny, "bert")
    load(folder, tmp_path)
    _, without = read_text_limit(tmp_path / "embedder.json", tmp_path / "store")
    load(folder, tmp_path, passage_prompt="passage: ")
    tokenizer, most = read_text_limit(tmp_path / "embedder.json", tmp_path / "store")
    assert most == without - len(tokenizer("passage: ", add_special_tokens=False).input_ids)


def test_positions_that_begin_behind_the_padding_are_not_counted() -> None:
    config = XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert longest_input(config) == 512


def test_other_prompts_are_resolved_anew_and_none_leave_the_manifest_as_it_was(
    tmp_path: Path, tiny: Any
) -> None:
    folder = save_encoder(tmp_path / "encoder", tiny, "bert")
    load(folder, tmp_path)
    manifest, store = tmp_path / "embedder.json", tmp_path / "store"
    assert set(json.loads(manifest.read_text())) == {
        "digest", "files", "kind", "license", "name", "revision", "source",
    }  # fmt: skip
    source = ModelManifest.read(manifest).source
    plain = EmbedderSource(source=source, revision=None)
    assert is_resolved(plain, manifest, store)
    asked = EmbedderSource(source=source, revision=None, query_prompt="query: ")
    assert not is_resolved(asked, manifest, store)
    load(folder, tmp_path, query_prompt="query: ")
    assert is_resolved(asked, manifest, store)
    assert not is_resolved(plain, manifest, store)
