"""Sentence embeddings from an encoder model.

The mean of a model's token vectors, as MiniLM makes it, is computed here: sentence-transformers
gives the same vectors and takes seconds to import. It makes the vectors of every other encoder.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tasks.models.store import ModelManifest
from tasks.stage.errors import ConfigError

_BATCH_TOKENS = 2048

_MODULES_FILE = "modules.json"

_POOLING_FILE = "1_Pooling/config.json"

_LENGTH_FILE = "sentence_bert_config.json"

_WHOLE = "name a whole encoder in params/models.yaml"

_MODULES = {"Transformer", "Pooling", "Normalize"}

# Texts of like length to their vectors, (texts, dimension), each text cut at the longest allowed.
EncodeBatch = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Embedder:
    """An encoder of texts into unit vectors of `dimension` numbers."""

    encode_batch: EncodeBatch
    tokenizer: PreTrainedTokenizerBase
    digest: str
    max_tokens: int
    dimension: int

    @classmethod
    def load(cls, manifest: Path, store: Path, *, device: torch.device) -> "Embedder":
        """Return the embedder that a manifest describes, in float32.

        Raises:
            ConfigError: it lacks weights, or sentence-transformers cannot open it.
        """
        disable_progress_bar()
        description = ModelManifest.read(manifest)
        folder = description.folder(store)
        load = _load_mean if _is_mean(folder) else _load_modules
        encode_batch, tokenizer, dimension, limit = load(folder, device)
        return cls(encode_batch, tokenizer, description.digest, limit, dimension)

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many texts exceed `max_tokens`: of these `encode` sees the beginning."""
        found = self.tokenizer(list(texts), verbose=False).input_ids if texts else []
        return sum(len(ids) > self.max_tokens for ids in found)

    @torch.inference_mode()
    def encode(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the unit vectors of texts, (texts, dimension); a text is cut at `max_tokens`.

        `progress` is told how many texts are done and how many there are.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens).input_ids
        done = 0
        for rows in batches_by_length([len(ids) for ids in tokens]):
            found = self.encode_batch([texts[row] for row in rows])
            vectors[rows] = torch.nn.functional.normalize(found, dim=-1).float().cpu().numpy()
            done += len(rows)
            if progress is not None:
                progress(done, len(texts))
        return vectors


def batches_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return rows of like length together, each batch at most `_BATCH_TOKENS` with its padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= _BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def read_text_limit(manifest: Path, store: Path) -> tuple[PreTrainedTokenizerBase, int]:
    """Return an embedder's tokenizer and the most tokens of a text that it takes, its own marks
    left out. No weights are read.

    Raises:
        ConfigError: the folder holds no tokenizer or no config.
    """
    folder = ModelManifest.read(manifest).folder(store)
    modules = folder / _MODULES_FILE
    if modules.exists():  # the first one reads the text; it can lie in a folder of its own
        folder /= json.loads(modules.read_text())[0]["path"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer of the embedder in {folder} cannot be read: {error}; expected one, "
            "since a passage must not be longer than what the embedder sees of it",
            "name a whole encoder in params/models.yaml",
        ) from error
    marks = tokenizer.num_special_tokens_to_add()
    return tokenizer, _max_tokens(folder, config, tokenizer) - marks


def _is_mean(folder: Path) -> bool:
    """Return whether a vector is the mean of its tokens' vectors and nothing more."""
    modules = folder / _MODULES_FILE
    if modules.exists():
        kinds = {one["type"].rpartition(".")[2] for one in json.loads(modules.read_text())}
        if kinds - _MODULES:
            return False
    path = folder / _POOLING_FILE
    if not path.exists():
        return True
    pooling = json.loads(path.read_text())
    chosen = {name for name, value in pooling.items() if "pooling_mode_" in name and value}
    return bool(pooling.get("pooling_mode") == "mean" or chosen == {"pooling_mode_mean_tokens"})


_Loaded = tuple[EncodeBatch, PreTrainedTokenizerBase, int, int]


def _load_mean(folder: Path, device: torch.device) -> _Loaded:
    """Return how to encode, the tokenizer, the dimension and the longest text in tokens."""
    model = load_whole(AutoModel, folder, _WHOLE).to(device)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    limit = _max_tokens(folder, model.config, tokenizer)

    def encode_batch(texts: list[str]) -> Tensor:
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(device)
        hidden: Tensor = model(**tokens).last_hidden_state
        mask: Tensor = tokens["attention_mask"][..., None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    return encode_batch, tokenizer, model.config.hidden_size, limit


def _load_modules(folder: Path, device: torch.device) -> _Loaded:
    """Return the same of an encoder whose modules are those of sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    try:
        encoder = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"sentence-transformers cannot open the embedder in {folder}: {error}",
            "name an encoder that it opens without code of its own in params/models.yaml",
        ) from error
    first = encoder[0]
    if not isinstance(first, Transformer):
        raise ConfigError(
            f"the embedder in {folder} begins with a module {type(first).__name__}; expected a "
            "transformer",
            "name an encoder model in params/models.yaml",
        )
    first.model = load_whole(type(first.model), folder, _WHOLE)
    encoder.eval().to(device)

    def encode_batch(texts: list[str]) -> Tensor:
        vectors: Tensor = encoder.encode(
            texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
        )
        return vectors

    dimension, limit = encoder.get_embedding_dimension(), encoder.max_seq_length
    if dimension is None or limit is None:
        raise ConfigError(
            f"the embedder in {folder} names no dimension or no longest text",
            f"write max_seq_length into its {_LENGTH_FILE}, or name another encoder",
        )
    return encode_batch, encoder.tokenizer, dimension, limit


def load_whole(architecture: Any, folder: Path, remedy: str) -> Any:
    """Return a model in float32, none of whose weights was made up.

    transformers makes up what files lack, with a warning alone. A bare encoder's pooler may be: it
    reads one token, and no vector comes from it.

    Raises:
        ConfigError: the files lack weights.
    """
    model, loading = architecture.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    made_up = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if made_up:
        raise ConfigError(
            f"the model in {folder} lacks {len(made_up)} weights, {made_up[0]} for one; expected "
            "all of them, since what is made up at random means nothing",
            remedy,
        )
    return model.eval()


def _max_tokens(folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest text in tokens: the least that the folder, model and tokenizer name."""
    path = folder / _LENGTH_FILE
    named = json.loads(path.read_text()).get("max_seq_length") if path.exists() else None
    bounds = (named, config.max_position_embeddings, tokenizer.model_max_length)
    return min(int(bound) for bound in bounds if bound)
