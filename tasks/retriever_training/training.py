"""An embedder's base with a fresh LoRA adapter, trained on pairs, and the adapter saved."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import Tensor, nn

from tasks.embedding.adapter import ADAPTER_FOLDER, write_adapted
from tasks.embedding.embedder import text_vectors
from tasks.models.linear_maps import decoder_linears
from tasks.models.manifest import ModelManifest
from tasks.models.peft_library import LoraConfig, get_peft_model
from tasks.models.provenance import tidy_adapter, write_provenance
from tasks.models.store import check_weights
from tasks.records.text import text_sha256
from tasks.retriever_training.batches import PairBatch, PairPack
from tasks.retriever_training.objective import info_nce
from tasks.retriever_training.pairs import Pair
from tasks.retriever_training.params import RetrieverParams
from tasks.stage.errors import ConfigError
from tasks.stage.params import Pooling
from tasks.training.loop import TrainingResult, train

# Its vector is none that a text's is pooled from.
_POOLER = "pooler."


def adapted_layers(model: Any, name: str) -> list[str]:
    """Return the linear layers of an encoder that an adapter stands on: all but the pooler.

    Raises:
        ConfigError: it has none.
    """
    layers = [layer for layer, _ in decoder_linears(model) if not layer.startswith(_POOLER)]
    if not layers:
        raise ConfigError(
            f"the embedder {name} ({type(model).__name__}) has no linear layer that a LoRA adapter "
            "could stand on",
            "name another embedder in params/models.yaml, or set retriever_training.enabled: false",
        )
    return layers


def with_fresh_adapter(model: Any, layers: Sequence[str], params: RetrieverParams) -> Any:
    """Return an encoder's model with an adapter on these layers that changes nothing yet."""
    set_seed(params.seed)
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=list(layers),
    )
    return get_peft_model(model, config)


def pair_loss(model: nn.Module, pack: PairPack, *, pooling: Pooling, temperature: float) -> Tensor:
    """Return the summed loss of a pack's questions, in nats; a scalar."""
    questions, passages = (
        text_vectors(model, side, pooling) for side in (pack.questions, pack.passages)
    )
    return info_nce(questions, passages, pack.negatives, temperature=temperature)


def learn(
    model: Any,
    pooling: Pooling,
    batches: Sequence[PairBatch],
    held_out: Sequence[PairBatch],
    params: RetrieverParams,
    *,
    scratch: Path,
    identity: str,
    share: tuple[float, float],
) -> TrainingResult:
    """Train the adapter in place; it ends with the weights of its best held-out loss.

    A training of the same `identity` goes on from its last checkpoint in `scratch`.

    Raises:
        DataError: a loss or gradient is not finite.
        ConfigError: the device has not the memory for it.
    """
    loss = partial(pair_loss, pooling=pooling, temperature=params.temperature)
    return train(
        model, batches, held_out, loss, params, scratch=scratch, identity=identity, share=share
    )


def training_identity(
    params: RetrieverParams, embedder: ModelManifest, batches: Sequence[PairBatch]
) -> str:
    """Return a hash of what a checkpoint must be made with for a training to go on from it."""
    pairs = (text for batch in batches for pair in batch.examples for text in _content(pair))
    negatives = (str(batch.packs[0].negatives.tolist()) for batch in batches)
    return text_sha256(params.model_dump_json(), embedder.identity, *pairs, *negatives)


def _content(pair: Pair) -> tuple[str, str]:
    return pair.question, pair.passage.shown


def save_trained(
    model: Any, folder: Path, embedder: Path, curated: Path, params: RetrieverParams
) -> Path:
    """Write the adapter and the manifest that names it into a folder; return the manifest.

    Raises:
        ConfigError: a weight is not finite.
    """
    shutil.rmtree(folder, ignore_errors=True)
    adapter, base = folder / ADAPTER_FOLDER, ModelManifest.read(embedder)
    model.save_pretrained(str(adapter))
    tidy_adapter(adapter, embedder)
    check_weights(adapter)
    write_provenance(
        adapter,
        base=base.digest,
        numeric_form="float",
        template=None,
        tokens=curated,
        params=params,
    )
    return write_adapted(base, folder)
