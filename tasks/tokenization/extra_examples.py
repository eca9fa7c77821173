"""What is learned besides answers, where params say so: documents and preference pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from tasks.records.schema import Document, Record
from tasks.sequences.examples import (
    DOCUMENTS_FILE,
    HELD_OUT_DOCUMENTS_FILE,
    HELD_OUT_PREFERENCES_FILE,
    PREFERENCES_FILE,
    Example,
)
from tasks.tokenization.documents import count_tokens, documents_line, encode_documents
from tasks.tokenization.params import TokenizationParams
from tasks.tokenization.preferences import check_pairs, count_pairs, encode_pairs, pairs_line
from tasks.tokenization.training_examples import EncodedSplit

_PAIRS_FILES = {"train": PREFERENCES_FILE, "validation": HELD_OUT_PREFERENCES_FILE}


@dataclass(frozen=True)
class ExtraExamples:
    """Examples by the name of their file, and counts of them for the report; empty where off."""

    files: dict[str, list[Example]] = field(default_factory=dict)
    counts: dict[str, object] = field(default_factory=dict)


def encode_extra(
    documents: Sequence[Document],
    splits: Mapping[str, Sequence[Record]],
    encoded: Mapping[str, EncodedSplit],
    tokenizer: PreTrainedTokenizerBase,
    params: TokenizationParams,
) -> ExtraExamples:
    """Return documents and preference pairs as examples, each where params say so.

    Raises:
        DataError: there are none where params say so, or two answers of a pair are equal.
    """
    found = ExtraExamples()
    if params.documents:
        raw = encode_documents(documents, splits["test"], tokenizer, params)
        found.files.update({DOCUMENTS_FILE: raw.learned, HELD_OUT_DOCUMENTS_FILE: raw.held_out})
        found.counts["documents"] = count_tokens(raw, tokenizer)
    if params.preferences:
        pairs = {
            name: encode_pairs(splits[name], encoded[name].examples, tokenizer, params.max_tokens)
            for name in _PAIRS_FILES
        }
        check_pairs(pairs["train"], pairs["validation"])
        found.files.update({_PAIRS_FILES[name]: made.examples for name, made in pairs.items()})
        found.counts["preferences"] = {name: count_pairs(made) for name, made in pairs.items()}
    return found


def extra_lines(metrics: Mapping[str, object]) -> list[str]:
    """Return the lines of a report that tell the counts of `ExtraExamples`."""
    lines = []
    if isinstance(documents := metrics.get("documents"), dict):
        lines += ["", documents_line(documents)]
    if isinstance(pairs := metrics.get("preferences"), dict):
        lines += ["", pairs_line(pairs)]
    return lines
