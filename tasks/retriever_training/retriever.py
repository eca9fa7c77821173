"""The embedder that search uses tonight: its base, or the base with what it learned."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tasks.embedding.adapter import GAIN_FILE
from tasks.embedding.embedder import Embedder, PlainEncoder
from tasks.embedding.prompts import read_prompts
from tasks.embedding.vector_memo import VectorMemo, remembered
from tasks.lexical.bm25 import LexicalIndex
from tasks.lexical.chunking import Passage
from tasks.models.loading import prepare_device
from tasks.models.manifest import ModelManifest
from tasks.prompting.passages import cut_passages
from tasks.records.schema import read_documents, read_records
from tasks.records.text import hash_share
from tasks.retriever_training.batches import PairBatch, make_batches, masked_share
from tasks.retriever_training.gate import (
    Asked,
    Gain,
    Reason,
    Score,
    asked_questions,
    asked_spans,
    compare,
    score,
)
from tasks.retriever_training.pairs import (
    Chosen,
    Pair,
    choose_pairs,
    hard_negatives,
    question_pairs,
    span_pairs,
)
from tasks.retriever_training.params import Params, RetrieverParams
from tasks.retriever_training.training import (
    adapted_layers,
    learn,
    save_trained,
    training_identity,
    with_fresh_adapter,
)
from tasks.stage.errors import DataError
from tasks.stage.metrics import Curves
from tasks.stage.outputs import verified
from tasks.training.loop import TrainingResult

_ASKED_SHARE = 0.1  # of the documents with spans: they are asked for, and never learned
# Which parts of the stage are the base's vectors and the training; the rest are the trained ones.
_BASE, _TRAINED = 0.15, 0.85


@dataclass(frozen=True)
class Inputs:
    """What is read, and where checkpoints, memos and what may not be kept are written."""

    curated: Path
    base: Path
    embedder: Path
    model_store: Path
    scratch: Path


@dataclass(frozen=True)
class PairCounts:
    """How many pairs were learned, and how many said when to stop.

    `feedback` of the learned ones are reviewed; `negatives` are those of BM25; `masked` is the
    share of a question's other passages that hold what it asks, and so are no negatives.
    """

    learned: int
    held_out: int
    feedback: int
    negatives: int
    masked: float


@dataclass(frozen=True)
class Learned:
    """From what a training learned, how it went, and what was gained."""

    pairs: PairCounts
    training: TrainingResult
    gain: Gain


@dataclass(frozen=True)
class Outcome:
    """The embedder's manifest, why it is this one, and what that rests on.

    `base` and `lexical` are what the base and BM25 find, None where nothing was asked; `learned` is
    None where nothing was trained.
    """

    manifest: Path
    reason: Reason
    questions: int = 0
    are_spans: bool = False
    base: Score | None = None
    lexical: Score | None = None
    learned: Learned | None = None

    @property
    def is_trained(self) -> bool:
        """Return whether what was learned is kept."""
        return self.reason == "better"


def train_retriever(params: Params, inputs: Inputs) -> Outcome:
    """Return the embedder that search is to use.

    It is trained where its base leaves something to find and questions can tell whether that
    helped, and kept where they do.

    Raises:
        DataError: there is nothing to learn, or a loss is not finite.
        ConfigError: no adapter can stand on the embedder, or memory does not hold a batch.
        DeviceError: memory ran out.
    """
    settings, device = params.retriever_training, prepare_device(params.compute)
    encoder = PlainEncoder.load(inputs.embedder, inputs.model_store, device=device)
    layers = adapted_layers(encoder.model, ModelManifest.read(inputs.embedder).name)
    chosen, asked = _choose(params, inputs)
    found = Outcome(inputs.embedder, "too_few", len(asked.questions), asked.are_spans)
    if len(asked.questions) < settings.gate.least_questions:
        return found
    lexical = LexicalIndex.build([passage.shown for passage in asked.passages])
    before = _base_ranks(asked, inputs, device)
    base = score(before, settings.gate)
    found = replace(found, base=base, lexical=score(asked.lexical_ranks(lexical), settings.gate))
    if base.recall.value == 1:
        return replace(found, reason="found_all")
    batches = _batches(chosen, asked.passages, lexical, encoder, inputs, settings)
    training, manifest = _train(encoder, layers, batches, inputs, settings)
    gain = compare(before, _trained_ranks(asked, manifest, inputs, device), settings.gate)
    if gain.is_better:
        _write_gain(manifest.with_name(GAIN_FILE), gain, found, settings)
    return replace(
        found,
        manifest=manifest if gain.is_better else inputs.embedder,
        reason="better" if gain.is_better else "not_better",
        learned=Learned(_counts(batches), training, gain),
    )


@dataclass(frozen=True)
class _Batches:
    """What is learned, and what says when to stop."""

    learned: list[PairBatch]
    held_out: list[PairBatch]


def _choose(params: Params, inputs: Inputs) -> tuple[Chosen, Asked]:
    """Return the pairs to learn, and what is asked to tell whether that helped.

    Validation questions are asked, whatever the pairs are; where they are too few and the pairs are
    spans, spans of other documents.

    Raises:
        DataError: there are no documents, or not a pair to learn and one to stop by.
    """
    settings, curated = params.retriever_training, verified(inputs.curated)
    passages = cut_passages(
        read_documents(curated / "documents.jsonl"),
        params.prompting,
        base=inputs.base,
        embedder=inputs.embedder,
        model_store=inputs.model_store,
    )
    asked = asked_questions(read_records(curated / "validation.jsonl"), passages, settings.gate)
    if settings.pairs == "questions":
        pairs = question_pairs(read_records(curated / "train.jsonl"), passages)
    else:
        pairs = span_pairs(passages, settings.seed)
        if len(asked.questions) < settings.gate.least_questions:
            spans = [pair for pair in pairs if hash_share(pair.id, "asked") < _ASKED_SHARE]
            pairs = [pair for pair in pairs if hash_share(pair.id, "asked") >= _ASKED_SHARE]
            asked = asked_spans(spans, passages, settings.gate)
    chosen = choose_pairs(
        pairs, most=settings.most_pairs, share=settings.held_out_share, seed=settings.seed
    )
    _check(chosen, len(passages), settings)
    return chosen, asked


def _check(chosen: Chosen, passages: int, settings: RetrieverParams) -> None:
    if chosen.learned and chosen.held_out:
        return
    found = len(chosen.learned) + len(chosen.held_out)
    wanted, other = (
        ("training records that name a document", "set pairs: spans, which learns from documents")
        if settings.pairs == "questions"
        else ("documents with a passage of two sentences", "set pairs: questions")
    )
    raise DataError(
        f"{passages} passages give {found} pairs to train the embedder on; expected {wanted}, of "
        "two groups at least: one to learn and one to stop by",
        f"take more data in; or, in params/retriever_training.yaml, {other} or enabled: false",
    )


def _batches(
    chosen: Chosen,
    passages: Sequence[Passage],
    lexical: LexicalIndex,
    encoder: PlainEncoder,
    inputs: Inputs,
    settings: RetrieverParams,
) -> _Batches:
    description = ModelManifest.read(inputs.embedder)
    prompts = read_prompts(description, description.folder(inputs.model_store))

    def batches(pairs: Sequence[Pair]) -> list[PairBatch]:
        hard = hard_negatives(pairs, passages, lexical, settings.hard_negatives)
        return make_batches(pairs, hard, encoder.tokens, prompts, size=settings.batch_pairs)

    return _Batches(batches(chosen.learned), batches(chosen.held_out))


def _train(
    encoder: PlainEncoder,
    layers: Sequence[str],
    batches: _Batches,
    inputs: Inputs,
    settings: RetrieverParams,
) -> tuple[TrainingResult, Path]:
    """Return how the training went, and the manifest of the embedder with what it learned."""
    model = with_fresh_adapter(encoder.model, layers, settings)
    training = learn(
        model,
        encoder.pooling,
        batches.learned,
        batches.held_out,
        settings,
        scratch=inputs.scratch,
        identity=training_identity(
            settings,
            ModelManifest.read(inputs.embedder),
            [*batches.learned, *batches.held_out],
        ),
        share=(_BASE, _TRAINED),
    )
    folder = inputs.scratch / "trained"
    return training, save_trained(model, folder, inputs.embedder, inputs.curated, settings)


def _base_ranks(asked: Asked, inputs: Inputs, device: torch.device) -> list[float]:
    """Return the ranks that the base gives; the vectors of passages are remembered."""
    embedder = Embedder.load(inputs.embedder, inputs.model_store, device=device)
    progress = Curves(inputs.scratch, series="base", share=(0.0, _BASE)).progress
    memo = VectorMemo(inputs.scratch / "memos", embedder.digest)
    encode = partial(embedder.encode, progress=progress, purpose="passage")
    return asked.ranks(
        partial(embedder.encode, purpose="query"), lambda texts: remembered(texts, memo, encode)
    )


def _trained_ranks(
    asked: Asked, manifest: Path, inputs: Inputs, device: torch.device
) -> list[float]:
    embedder = Embedder.load(manifest, inputs.model_store, device=device)
    progress = Curves(inputs.scratch, series="trained", share=(_TRAINED, 1.0)).progress
    return asked.ranks(
        partial(embedder.encode, purpose="query"),
        partial(embedder.encode, progress=progress, purpose="passage"),
    )


def _write_gain(path: Path, gain: Gain, found: Outcome, settings: RetrieverParams) -> None:
    """Write what the trained embedder finds more, for those who get it in a bundle."""
    content = {
        "pairs": settings.pairs,
        "questions": found.questions,
        "questions_are_spans": found.are_spans,
        "recall_at": settings.gate.recall_at,
        **asdict(gain),
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _counts(batches: _Batches) -> PairCounts:
    learned = [pair for batch in batches.learned for pair in batch.examples]
    negatives = sum(
        batch.packs[0].negatives.shape[1] - len(batch.examples) for batch in batches.learned
    )
    return PairCounts(
        len(learned),
        sum(len(batch.examples) for batch in batches.held_out),
        sum(pair.is_feedback for pair in learned),
        negatives,
        masked_share(batches.learned),
    )
