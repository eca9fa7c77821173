"""An embedder's vectors are those of sentence-transformers, or it is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer

from tasks.embedding.embedder import Embedder
from tasks.models.store import convert
from tasks.stage.errors import ConfigError


def add_modules(folder: Path, *modules: Any) -> None:
    """Save the modules of an encoder as sentence-transformers does."""
    encoder = SentenceTransformer(modules=[Transformer(str(folder)), *modules], device="cpu")
    encoder.save(str(folder), create_model_card=False, safe_serialization=True)


def load_encoder(folder: Path, root: Path) -> Embedder:
    manifest = root / "embedder.json"
    convert(str(folder), None, "embedder", root / "store").write(manifest)
    return Embedder.load(manifest, root / "store", device=torch.device("cpu"))


@pytest.fixture
def encoder(tmp_path: Path, tiny: Any) -> Path:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny.root / "bert", folder)
    # As encoders have it, whose tokenizers know no chat.
    AutoTokenizer.from_pretrained(folder, padding_side="right").save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max"])
@pytest.mark.parametrize("further", [[], ["Normalize"], ["Dense", "Normalize"]])
def test_a_vector_is_the_one_that_sentence_transformers_makes(
    tmp_path: Path, encoder: Path, pooling: Any, further: list[str]
) -> None:
    modules = {"Normalize": Normalize(), "Dense": Dense(16, 8)}
    add_modules(encoder, Pooling(16, pooling), *(modules[name] for name in further))
    texts = ["one", "a much longer text than the other one", "왜 그런가요?", "words " * 200]
    embedder = load_encoder(encoder, tmp_path)
    assert embedder.dimension == (8 if "Dense" in further else 16)
    expected = SentenceTransformer(str(encoder), device="cpu").encode(
        texts, normalize_embeddings=True
    )
    np.testing.assert_allclose(embedder.encode(texts), expected, atol=1e-6)
    assert embedder.cut(texts) == 1


def test_an_older_pooling_file_is_understood(tmp_path: Path, encoder: Path) -> None:
    vectors = []
    for chosen in ({}, {"pooling_mode_mean_tokens": True}, {"pooling_mode_cls_token": True}):
        if chosen:
            (encoder / "1_Pooling").mkdir(exist_ok=True)
            names = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": False}
            (encoder / "1_Pooling/config.json").write_text(json.dumps(names | chosen))
            kinds = {"": "Transformer", "1_Pooling": "Pooling"}
            listed = [
                {"idx": at, "name": str(at), "path": path,
                 "type": f"sentence_transformers.models.{kind}"}
                for at, (path, kind) in enumerate(kinds.items())
            ]  # fmt: skip
            (encoder / "modules.json").write_text(json.dumps(listed))
        vectors.append(load_encoder(encoder, tmp_path).encode(["an older file"])[0])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[1], vectors[2])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("models.NoSuchModule", "sentence-transformers cannot open"),
        ("models.Normalize", "begins with a module Normalize"),
    ],
)
def test_an_encoder_that_cannot_be_opened_is_refused(
    tmp_path: Path, encoder: Path, kind: str, said: str
) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"sentence_transformers.{kind}"}]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    with pytest.raises(ConfigError, match=said):
        load_encoder(encoder, tmp_path)


def test_an_encoder_with_modules_that_lacks_weights_is_refused(
    tmp_path: Path, encoder: Path
) -> None:
    add_modules(encoder, Pooling(16, "cls"))
    weights = load_file(encoder / "model.safetensors")
    torn = {name: value for name, value in weights.items() if "layer.0.output" not in name}
    save_file(torn, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 4 weights, encoder\.layer\.0\.output"):
        load_encoder(encoder, tmp_path)
