"""Relevance of passages to a question, read together by a cross-encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from tasks.embedding.embedder import batches_by_length, load_whole, longest_input
from tasks.stage.errors import ConfigError, DataError

_REMEDY = "name a cross-encoder with one output in params/reranking.yaml, or null"
_SIZES_WITHOUT_BOUND = 10**9  # what tokenizers say that know no bound of their own is larger
_MAX_TOKENS = 512


@dataclass(frozen=True)
class Reranker:
    """A sequence classifier with one output, the larger the better a passage answers."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    @classmethod
    def load(cls, folder: Path, *, device: torch.device) -> "Reranker":
        """Return the cross-encoder in a model folder, in float32.

        Raises:
            ConfigError: it is none: it has no head, or one with several outputs.
        """
        disable_progress_bar()
        model = load_whole(AutoModelForSequenceClassification, folder, _REMEDY)
        if model.config.num_labels != 1:
            raise ConfigError(
                f"the reranker in {folder} has {model.config.num_labels} outputs; expected one, "
                "the relevance of a passage, since of several nothing tells which to rank by",
                _REMEDY,
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model.to(device), tokenizer, _max_tokens(model, tokenizer))

    @torch.inference_mode()
    def score(self, questions: Sequence[str], texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the relevance of each text to the question beside it, (pairs,), without bounds.

        Of a pair longer than `max_tokens` the text is cut, or the question where it is longer.

        Raises:
            DataError: a score is not finite.
        """
        scores = np.empty(len(texts), dtype=np.float32)
        if not texts:
            return scores
        pairs = self.tokenizer(
            list(questions), list(texts), truncation="longest_first", max_length=self.max_tokens
        )
        lengths = [len(ids) for ids in pairs["input_ids"]]
        for rows in batches_by_length(lengths):
            chosen = {name: [values[row] for row in rows] for name, values in pairs.items()}
            batch = self.tokenizer.pad(chosen, return_tensors="pt").to(self.model.device)
            scores[rows] = self.model(**batch).logits[:, 0].float().cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(scores))
        if len(broken):
            raise DataError(
                f"the reranker gives {len(broken)} of {len(texts)} passages a score that is not "
                f"finite, the first {texts[broken[0]][:60]!r}; such a passage has no rank",
                "name another cross-encoder in params/reranking.yaml",
            )
        return scores


def _max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest pair that model and tokenizer allow."""
    positions = longest_input(model.config) or _MAX_TOKENS
    own = tokenizer.model_max_length
    return min(positions, own if own < _SIZES_WITHOUT_BOUND else _MAX_TOKENS)
