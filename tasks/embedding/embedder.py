"""Sentence embeddings from an encoder model, and a memo of those that are known already."""

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tasks.models.store import ModelManifest
from tasks.records.text import text_sha256
from tasks.stage.errors import ConfigError

_BATCH_TOKENS = 2048

_MODULES_FILE = "modules.json"

_POOLING_FILE = "1_Pooling/config.json"

_LENGTH_FILE = "sentence_bert_config.json"

_MODULES = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True)
class Embedder:
    """An encoder whose token vectors, averaged and scaled to length one, stand for a text."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    max_tokens: int

    @classmethod
    def load(cls, manifest: Path, store: Path, *, device: torch.device) -> "Embedder":
        """Return the embedder that a manifest describes, in float32.

        Raises:
            ConfigError: it makes a vector otherwise than by the mean of its tokens' vectors, or
                lacks weights.
        """
        disable_progress_bar()
        description = ModelManifest.read(manifest)
        folder = description.folder(store)
        _check_pooling(folder)
        model, loading = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        _check_whole(folder, loading["missing_keys"])
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        limit = min(_max_tokens(folder), model.config.max_position_embeddings)
        return cls(model.eval().to(device), tokenizer, description.digest, limit)

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        width: int = self.model.config.hidden_size
        return width

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
            vectors[rows] = self._encode_batch([tokens[row] for row in rows])
            done += len(rows)
            if progress is not None:
                progress(done, len(texts))
        return vectors

    def _encode_batch(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        padded = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt")
        padded = padded.to(self.model.device)
        hidden = self.model(**padded).last_hidden_state
        mask = padded["attention_mask"][..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return unit


def batches_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return rows of like length together, each batch at most `_BATCH_TOKENS` with its padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= _BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _check_whole(folder: Path, missing: Collection[str]) -> None:
    """Check that no weight was made up, which transformers does with a warning alone.

    The pooler's may be: it reads one token and no vector of ours comes from it.
    """
    made_up = sorted(name for name in missing if not name.startswith("pooler."))
    if made_up:
        raise ConfigError(
            f"the embedder in {folder} lacks {len(made_up)} weights, {made_up[0]} for one; made up "
            "at random they would give vectors that mean nothing",
            "name a whole encoder in params/models.yaml",
        )


def _check_pooling(folder: Path) -> None:
    """Check that what sentence-transformers would compute is what is computed here."""
    modules = folder / _MODULES_FILE
    if modules.exists():
        kinds = {one["type"].rpartition(".")[2] for one in json.loads(modules.read_text())}
        further = sorted(kinds - _MODULES)
        if further:
            raise ConfigError(
                f"the embedder in {folder} has a module {further[0]} behind its pooling, which is "
                "not computed here: its vectors would be others",
                "name an embedder that pools and normalizes alone in params/models.yaml",
            )
    path = folder / _POOLING_FILE
    if path.exists() and not json.loads(path.read_text()).get("pooling_mode_mean_tokens"):
        raise ConfigError(
            f"the embedder in {folder} does not average its token vectors; only mean pooling is "
            "supported, and other pooling would give wrong vectors",
            "name an embedder with mean pooling in params/models.yaml",
        )


def _max_tokens(folder: Path) -> int:
    path = folder / _LENGTH_FILE
    default = 512
    return int(json.loads(path.read_text())["max_seq_length"]) if path.exists() else default


LOGGER = logging.getLogger(__name__)


class VectorMemo:
    """Vectors by embedder and text hash, in one file below scratch; deleting it costs only time."""

    def __init__(self, folder: Path, embedder: str) -> None:
        """Open the memo of one embedder; a file that can't be read counts as none."""
        self._path = folder / f"vectors-{embedder[:32]}.npz"
        self._vectors: dict[str, NDArray[np.float32]] = {}
        if not self._path.exists():
            return
        try:
            with np.load(self._path, allow_pickle=False) as content:
                keys, vectors = content["keys"], content["vectors"]
                self._vectors = {str(k): row for k, row in zip(keys, vectors, strict=True)}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            LOGGER.warning("%s can't be read (%s): every text is embedded", self._path, error)

    def get(self, text: str) -> NDArray[np.float32] | None:
        """Return the vector of a text, or None."""
        return self._vectors.get(text_sha256(text))

    def replace(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep the vectors of these texts and no others, atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.array([text_sha256(text) for text in texts], dtype=np.str_)
        temporary = self._path.with_suffix(".partial")
        with temporary.open("wb") as stream:
            np.savez(stream, keys=keys, vectors=vectors)
        temporary.replace(self._path)


def remembered(
    texts: Sequence[str],
    memo: VectorMemo,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Return the vectors of texts, (texts, dimension), which the memo then holds.

    `encode` is called once with the texts that the memo does not know, and not at all where it
    knows every one.
    """
    known = {text: memo.get(text) for text in dict.fromkeys(texts)}
    new = [text for text, vector in known.items() if vector is None]
    known.update(zip(new, encode(new), strict=True) if new else ())
    vectors = np.array([known[text] for text in texts], dtype=np.float32)
    memo.replace(texts, vectors)
    return vectors
