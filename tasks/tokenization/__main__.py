"""Records rendered by one prompt template and turned into token ids, answers marked as learned."""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tasks.lm.conversion import ModelManifest
from tasks.lm.examples import Example, write_examples
from tasks.lm.models import load_tokenizer
from tasks.lm.prompts import PromptTemplate, encode_answer
from tasks.records.files import read_documents, read_records
from tasks.records.passages import Passage, cut_documents
from tasks.records.record import Record
from tasks.stage.command import output, run_stage
from tasks.stage.errors import DataError
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.tokenization.contexts import choose_contexts
from tasks.tokenization.params import Params

LOGGER = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    curated: Path
    base: Path
    model_store: Path
    scratch: Path
    tokens: Path = output()
    tokenization_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write `tokens/{train,validation,test}.parquet` and the report.

    Raises:
        DataError: no training example fits `max_tokens`.
    """
    verified(paths.curated)
    tokenizer = load_tokenizer(ModelManifest.read(paths.base).folder(paths.model_store))
    template = PromptTemplate.load(Path(params.prompting.template))
    passages = cut_documents(
        read_documents(paths.curated / "documents.jsonl"),
        words=params.prompting.passage_words,
        overlap_words=params.prompting.passage_overlap_words,
    )
    metrics: dict[str, object] = {"template_sha256": template.digest}
    with output_folders(paths.tokens, paths.tokenization_report) as (tokens, report):
        for split in SPLITS:
            records = read_records(paths.curated / f"{split}.jsonl")
            examples = encode_records(records, passages, params, template, tokenizer)
            kept = [
                example
                for example in examples
                if len(example.token_ids) <= params.tokenization.max_tokens
            ]
            if split == "train" and not kept:
                raise DataError(
                    f"none of {len(examples)} training examples fits max_tokens "
                    f"({params.tokenization.max_tokens})",
                    "raise tokenization.max_tokens, or look at data/reports/curation/report.md",
                )
            write_examples(tokens / f"{split}.parquet", kept)
            metrics[split] = _count(kept, len(examples) - len(kept))
        write_metrics(report, metrics)
        (report / "report.md").write_text(_report(metrics), encoding="utf-8")
    LOGGER.info("%s", _report(metrics))


def encode_records(
    records: Sequence[Record],
    passages: Sequence[Passage],
    params: Params,
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
) -> list[Example]:
    """The examples of records, in their order."""
    contexts = choose_contexts(
        records, passages, count=params.prompting.passages, params=params.tokenization
    )
    examples = []
    for record in records:
        context = contexts[record.id]
        prompt = template.token_ids(tokenizer, record.messages[:-1], context.passages)
        answer = encode_answer(tokenizer, record.answer)
        examples.append(
            Example(
                record.id,
                record.slice,
                record.intake,
                "passages" if context.passages else "closed_book",
                context.name,
                tuple(prompt + answer),
                len(prompt),
            )
        )
    return examples


def _count(examples: Sequence[Example], too_long: int) -> dict[str, object]:
    variants = Counter(example.variant for example in examples)
    return {
        "examples": len(examples),
        "too_long": too_long,
        "tokens": sum(len(example.token_ids) for example in examples),
        "supervised_tokens": sum(example.supervised for example in examples),
        "variants": dict(sorted(variants.items())),
    }


def _report(metrics: dict[str, object]) -> str:
    lines = [
        "# Tokenization",
        "",
        "| split | examples | too long | tokens | learned |",
        "|---|--:|--:|--:|--:|",
    ]
    for split in SPLITS:
        row = metrics[split]
        assert isinstance(row, dict)
        lines.append(
            f"| {split} | {row['examples']} | {row['too_long']} | {row['tokens']} "
            f"| {row['supervised_tokens']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_stage("tokenization", Params, Paths, run))
