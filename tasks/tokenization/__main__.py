"""Records rendered by one prompt template and turned into token ids, answers marked as learned."""

import json
import logging
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.lexical.chunking import Passage, cut_documents
from tasks.models.loading import load_tokenizer
from tasks.models.store import ModelManifest
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import write_prompt_bundle
from tasks.prompting.templates import PromptTemplate, as_turns, choose_demonstrations
from tasks.records.schema import SPLITS, Record, read_documents, read_records
from tasks.sequences.examples import write_examples, write_weights
from tasks.sequences.packing import distinct_tokens
from tasks.stage.command import output, run_stage
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.tokenization.params import Params
from tasks.tokenization.training_examples import (
    EncodedSplit,
    choose_contexts,
    encode_records,
    make_prompts,
)
from tasks.tokenization.usability import unusable_error

LOGGER = logging.getLogger(__name__)
REPORT_FILE = "report.md"


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    curated: Path
    source_weights: Path
    base: Path
    model_store: Path
    scratch: Path
    tokens: Path = output()
    tokenization_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write `tokens/{train,validation,test}.parquet`, `tokens/prompt/` and the report.

    Raises:
        DataError: no training example can be used.
        GateError: a greater share of the examples than params allow cannot be used.
    """
    (paths.scratch / REPORT_FILE).unlink(missing_ok=True)  # an earlier night's
    curated, settings = verified(paths.curated), params.tokenization
    tokenizer = load_tokenizer(ModelManifest.read(paths.base).folder(paths.model_store))
    splits = {name: read_records(curated / f"{name}.jsonl") for name in SPLITS}
    shown = choose_demonstrations(splits["train"], settings.demonstrations, settings.seed)
    splits["train"] = [record for record in splits["train"] if record not in shown]
    template = PromptTemplate.load(Path(settings.template), as_turns(shown))
    passages = _passages(curated, params)
    contexts = {
        name: choose_contexts(records, passages, count=params.prompting.passages, params=settings)
        for name, records in splits.items()
    }
    encoded = {
        name: encode_records(records, contexts[name], template, tokenizer, settings)
        for name, records in splits.items()
    }
    metrics: dict[str, object] = {
        "template_sha256": template.digest,
        "demonstrations": [record.id for record in shown],
        **{name: _count(found) for name, found in encoded.items()},
    }
    text = _report(metrics)
    LOGGER.info("%s", text)
    _check(splits, encoded, params, paths.scratch, text)
    with output_folders(paths.tokens, paths.tokenization_report) as (tokens, report):
        golden = make_prompts(splits["train"], contexts["train"])
        write_prompt_bundle(tokens / PROMPT, template, tokenizer, golden)
        for name, found in encoded.items():
            write_examples(tokens / f"{name}.parquet", found.examples)
        write_weights(tokens, json.loads(paths.source_weights.read_text(encoding="utf-8")))
        write_metrics(report, metrics)
        (report / REPORT_FILE).write_text(text, encoding="utf-8")


def _passages(curated: Path, params: Params) -> list[Passage]:
    return cut_documents(
        read_documents(curated / "documents.jsonl"),
        words=params.prompting.passage_words,
        overlap_words=params.prompting.passage_overlap_words,
    )


def _check(
    splits: dict[str, list[Record]],
    encoded: dict[str, EncodedSplit],
    params: Params,
    scratch: Path,
    report: str,
) -> None:
    """Stop the night where too little can be learned from; the report then lies in scratch."""
    train = encoded["train"]
    error: DataError | GateError | None
    if train.examples:
        error = unusable_error(splits, encoded, params)
    else:
        error = DataError(
            f"none of {len(splits['train'])} training examples can be used: "
            f"{len(train.left_out['too_long'])} are longer than max_tokens "
            f"({params.tokenization.max_tokens}), the others have an empty answer",
            "raise tokenization.max_tokens, or look at data/reports/curation/report.md",
        )
    if error is not None:
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / REPORT_FILE).write_text(f"{report}\n{error.message}\n", encoding="utf-8")
        raise error


def _count(encoded: EncodedSplit) -> dict[str, object]:
    examples = encoded.examples
    contexts: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        contexts.setdefault(example.context, []).append(place)
    together = ([examples[place] for place in places] for places in contexts.values())
    return {
        "records": len(encoded.lengths),
        "examples": len(examples),
        **{reason: len(names) for reason, names in encoded.left_out.items()},
        "left_out": {reason: names[:20] for reason, names in encoded.left_out.items()},
        "tokens": sum(len(example.token_ids) for example in examples),
        "distinct_tokens": sum(map(distinct_tokens, together)),
        "supervised_tokens": sum(example.supervised for example in examples),
        "contexts": len(contexts),
        "variants": dict(sorted(Counter(example.variant for example in examples).items())),
    }


def _report(metrics: dict[str, object]) -> str:
    columns = {
        "examples": "examples",
        "too_long": "too long",
        "empty_answer": "empty answer",
        "records": "of rows",
        "contexts": "contexts",
        "tokens": "tokens",
        "distinct_tokens": "with shared prefixes once",
        "supervised_tokens": "learned",
    }
    lines = [
        "# Tokenization",
        "",
        f"Template {str(metrics['template_sha256'])[:12]}.",
        "",
        f"| split | {' | '.join(columns.values())} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    for split in SPLITS:
        row = metrics[split]
        assert isinstance(row, dict)
        lines.append(f"| {split} | {' | '.join(str(row[name]) for name in columns)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_stage("tokenization", Params, Paths, run))
