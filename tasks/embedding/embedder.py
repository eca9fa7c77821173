"""Sentence embeddings from an encoder model.

A vector that is the mean, the first or the last of a model's token vectors is made here:
sentence-transformers gives the same ones and takes seconds to import. It makes the vectors of
every other encoder of transformers' kind; a package of its own may make them too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tasks.embedding.adapter import merge_adapter
from tasks.embedding.pooling import LENGTH_FILE, MODULES_FILE, plain_pooling, pool
from tasks.embedding.prompts import Prompts, Purpose, read_prompts
from tasks.embedding.sentence_encoder import MAX_TOKENS, EngineTokenizer, load_engine
from tasks.models.engines import Engine
from tasks.models.manifest import ModelManifest
from tasks.stage.errors import ConfigError
from tasks.stage.params import Pooling

_BATCH_TOKENS = 2048

_WHOLE = "name a whole encoder in params/models.yaml"

# Number their positions from the padding's own number on.
_SHIFTED = {"roberta", "xlm-roberta", "camembert"}

# Texts of like length, and the prompt before each, to their vectors, (texts, dimension); a text is
# cut at the longest allowed.
EncodeBatch = Callable[[list[str], str], Tensor]


@dataclass(frozen=True)
class Embedder:
    """An encoder of texts into unit vectors of `dimension` numbers.

    `digest` is the same for two whose vectors are the same, prompts and pooling included.
    """

    encode_batch: EncodeBatch
    tokenizer: Any
    digest: str
    max_tokens: int
    dimension: int
    prompts: Prompts

    @classmethod
    def load(cls, manifest: Path, store: Path, *, device: torch.device) -> "Embedder":
        """Return the embedder that a manifest describes, in float32, with what it learned.

        Raises:
            ConfigError: it lacks weights, sentence-transformers cannot open it, or its own package
                is not there.
            DataError: a file of the adapter that the manifest names is missing or changed.
        """
        disable_progress_bar()
        description = ModelManifest.read(manifest)
        folder = description.folder(store)
        if description.adapter is not None:
            learned = PlainEncoder.load(manifest, store, device=device)
            encode_batch, tokenizer, dimension, limit = learned.loaded
        else:
            encode_batch, tokenizer, dimension, limit = _load(description, folder, device)
        prompts = read_prompts(description, folder)
        return cls(encode_batch, tokenizer, description.identity, limit, dimension, prompts)

    def cut(self, passages: Sequence[str]) -> int:
        """Return how many exceed `max_tokens` with their prompt: `encode` sees their beginning."""
        prompted = [self.prompts.passage + text for text in passages]
        found = self.tokenizer(prompted, verbose=False).input_ids if prompted else []
        return sum(len(ids) > self.max_tokens for ids in found)

    @torch.inference_mode()
    def encode(
        self,
        texts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        *,
        purpose: Purpose | None = None,
    ) -> NDArray[np.float32]:
        """Return the unit vectors of texts, (texts, dimension); a text is cut at `max_tokens`.

        `purpose` says which prompt stands before each. `progress` is told how many texts are done
        and how many there are.
        """
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        prompt = self.prompts.of(purpose)
        tokens = self.tokenizer(
            [prompt + text for text in texts], truncation=True, max_length=self.max_tokens
        ).input_ids
        done = 0
        for rows in batches_by_length([len(ids) for ids in tokens]):
            found = self.encode_batch([texts[row] for row in rows], prompt)
            vectors[rows] = torch.nn.functional.normalize(found, dim=-1).float().cpu().numpy()
            done += len(rows)
            if progress is not None:
                progress(done, len(texts))
        return vectors


@dataclass(frozen=True)
class PlainEncoder:
    """A model of transformers' kind, of whose tokens' vectors a text's one is pooled: no more.

    It is what can be trained. A text is cut at `limit` tokens, its prompt and marks included.
    """

    model: Any
    tokenizer: Any
    limit: int
    pooling: Pooling

    @classmethod
    def load(cls, manifest: Path, store: Path, *, device: torch.device) -> "PlainEncoder":
        """Return the encoder that a manifest describes, the adapter that it names merged.

        Raises:
            ConfigError: the embedder is of another kind, or lacks weights.
            DataError: a file of the adapter is missing or changed.
        """
        description = ModelManifest.read(manifest)
        folder = description.folder(store)
        engine = Engine.read(folder)
        pooling = None if engine else plain_pooling(folder, description.pooling)
        if pooling is None:
            how = f"computed by {engine.distribution}" if engine else "more than a pooled encoder"
            raise ConfigError(
                f"the embedder {description.name} is {how}, and no LoRA adapter can stand on it",
                "name an encoder of transformers' kind in params/models.yaml, or set "
                "retriever_training.enabled: false",
            )
        encoder = cls.read(folder, device, pooling)
        if description.adapter is None:
            return encoder
        return replace(encoder, model=merge_adapter(encoder.model, manifest))

    @classmethod
    def read(cls, folder: Path, device: torch.device, pooling: Pooling) -> "PlainEncoder":
        """Return the encoder in a folder.

        Raises:
            ConfigError: its files lack weights.
        """
        model = load_whole(AutoModel, folder, _WHOLE).to(device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model, tokenizer, _max_tokens(folder, model.config, tokenizer), pooling)

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return what the model reads of texts, padded and cut: (texts, tokens) each."""
        return dict(
            self.tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=self.limit,
                return_tensors="pt",
            )
        )

    def vectors(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors of texts, (texts, dimension), of no certain length."""
        return text_vectors(self.model, tokens, self.pooling)

    @property
    def loaded(self) -> "_Loaded":
        """Return how to encode, the tokenizer, the dimension and the longest text in tokens."""

        def encode_batch(texts: list[str], prompt: str) -> Tensor:
            tokens = self.tokens([prompt + text for text in texts])
            device = self.model.device
            return self.vectors({name: one.to(device) for name, one in tokens.items()})

        return encode_batch, self.tokenizer, self.model.config.hidden_size, self.limit


def text_vectors(model: Any, tokens: Mapping[str, Tensor], pooling: Pooling) -> Tensor:
    """Return the vectors that a model's token vectors are pooled to, (texts, dimension)."""
    hidden: Tensor = model(**tokens).last_hidden_state
    return pool(hidden, tokens["attention_mask"], pooling)


def batches_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Return rows of like length together, each batch at most `_BATCH_TOKENS` with its padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= _BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def read_text_limit(manifest: Path, store: Path) -> tuple[Any, int]:
    """Return an embedder's tokenizer and the most tokens of a passage that it takes, its own marks
    and the passage's prompt left out. No weights are read.

    Raises:
        ConfigError: the folder holds no tokenizer or no config.
    """
    description = ModelManifest.read(manifest)
    folder = description.folder(store)
    tokenizer, most = _read_tokenizer(folder)
    prompt = read_prompts(description, folder).passage
    taken = len(tokenizer(prompt, add_special_tokens=False).input_ids) if prompt else 0
    return tokenizer, most - tokenizer.num_special_tokens_to_add() - taken


def _read_tokenizer(folder: Path) -> tuple[Any, int]:
    engine = Engine.read(folder)
    if engine is not None:
        engine.require()
        return EngineTokenizer(folder), MAX_TOKENS
    modules = folder / MODULES_FILE
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
    return tokenizer, _max_tokens(folder, config, tokenizer)


_Loaded = tuple[EncodeBatch, Any, int, int]


def _load(manifest: ModelManifest, folder: Path, device: torch.device) -> _Loaded:
    """Return how to encode, the tokenizer, the dimension and the longest text in tokens."""
    engine = Engine.read(folder)
    if engine is not None:
        return load_engine(folder, engine)
    pooling = plain_pooling(folder, manifest.pooling)
    if pooling is None:
        return _load_modules(folder, device)
    return PlainEncoder.read(folder, device, pooling).loaded


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

    def encode_batch(texts: list[str], prompt: str) -> Tensor:
        vectors: Tensor = encoder.encode(
            texts,
            prompt=prompt,
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return vectors

    dimension, limit = encoder.get_embedding_dimension(), encoder.max_seq_length
    if dimension is None or limit is None:
        raise ConfigError(
            f"the embedder in {folder} names no dimension or no longest text",
            f"write max_seq_length into its {LENGTH_FILE}, or name another encoder",
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


def _max_tokens(folder: Path, config: Any, tokenizer: Any) -> int:
    """Return the longest text in tokens: the least that the folder, model and tokenizer name."""
    path = folder / LENGTH_FILE
    named = json.loads(path.read_text()).get("max_seq_length") if path.exists() else None
    bounds = (named, longest_input(config), tokenizer.model_max_length)
    return min(int(bound) for bound in bounds if bound)


def longest_input(config: Any) -> int | None:
    """Return how many tokens the positions of an encoder reach for, None where none are counted."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in _SHIFTED:
        positions -= config.pad_token_id + 1
    return positions
