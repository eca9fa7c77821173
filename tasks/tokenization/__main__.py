"""Records rendered by one prompt template and turned into token ids, answers marked as learned."""

import logging
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.lm.conversion import ModelManifest
from tasks.lm.demonstrations import as_turns, choose_demonstrations
from tasks.lm.examples import write_examples
from tasks.lm.models import load_tokenizer
from tasks.lm.packing import distinct_tokens
from tasks.lm.prompt_kit import write_prompt_kit
from tasks.lm.prompts import PromptTemplate
from tasks.records.files import read_documents, read_records
from tasks.records.passages import Passage, cut_documents
from tasks.records.prompt_files import PROMPT
from tasks.records.record import Record
from tasks.stage.command import output, run_stage
from tasks.stage.errors import DataError
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.shares import Taken, check_share
from tasks.tokenization.contexts import choose_contexts
from tasks.tokenization.encoding import Encoded, encode_records, make_prompts
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
    """Write `tokens/{train,validation,test}.parquet`, `tokens/prompt/` and the report.

    Raises:
        DataError: no training example can be used.
        GateError: more examples cannot be used than params allow.
    """
    curated, settings = verified(paths.curated), params.tokenization
    tokenizer = load_tokenizer(ModelManifest.read(paths.base).folder(paths.model_store))
    splits = {name: read_records(curated / f"{name}.jsonl") for name in SPLITS}
    shown = choose_demonstrations(splits["train"], settings.demonstrations, settings.seed)
    splits["train"] = [record for record in splits["train"] if record not in shown]
    template = PromptTemplate.load(Path(settings.template), as_turns(shown))
    passages = _passages(curated, params)
    with output_folders(paths.tokens, paths.tokenization_report) as (tokens, report):
        metrics: dict[str, object] = {
            "template_sha256": template.digest,
            "demonstrations": [record.id for record in shown],
        }
        unusable: dict[str, Encoded] = {}
        for name, records in splits.items():
            count = params.prompting.passages
            contexts = choose_contexts(records, passages, count=count, params=settings)
            encoded = encode_records(records, contexts, template, tokenizer, settings)
            if name == "train":
                _check(records, encoded, params)
                golden = make_prompts(records, contexts)
                write_prompt_kit(tokens / PROMPT, template, tokenizer, golden)
            write_examples(tokens / f"{name}.parquet", encoded.examples)
            metrics[name] = _count(encoded)
            unusable[name] = encoded
        _check_share(unusable, params)
        write_metrics(report, metrics)
        text = _report(metrics)
        (report / "report.md").write_text(text, encoding="utf-8")
    LOGGER.info("%s", text)


def _passages(curated: Path, params: Params) -> list[Passage]:
    return cut_documents(
        read_documents(curated / "documents.jsonl"),
        words=params.prompting.passage_words,
        overlap_words=params.prompting.passage_overlap_words,
    )


def _check(records: list[Record], encoded: Encoded, params: Params) -> None:
    if not encoded.examples:
        raise DataError(
            f"none of {len(records)} training examples can be used: "
            f"{len(encoded.left_out['too_long'])} are longer than max_tokens "
            f"({params.tokenization.max_tokens}), the others have an empty answer",
            "raise tokenization.max_tokens, or look at data/reports/curation/report.md",
        )


def _check_share(splits: dict[str, Encoded], params: Params) -> None:
    """Refuse the night where too many examples cannot be used.

    Raises:
        GateError: more than `max_unusable_share` of them.
    """
    settings = params.tokenization
    left_out = [
        f"{name} of {split}: {reason.replace('_', ' ')}, {tokens} tokens"
        for split, encoded in splits.items()
        for reason, names in encoded.left_out.items()
        for name, tokens in names.items()
    ]
    kept = sum(len(encoded.examples) for encoded in splits.values())
    what = f"examples cannot be learned from: too long is above {settings.max_tokens} tokens"
    check_share(
        Taken(len(left_out), len(left_out) + kept, what, left_out),
        settings.max_unusable_share,
        setting="tokenization.max_unusable_share",
        remedy="raise tokenization.max_tokens; or show less with each question, by "
        "prompting.passages and prompting.passage_words; or choose a base model whose tokenizer "
        "needs fewer tokens for these texts",
    )


def _count(encoded: Encoded) -> dict[str, object]:
    examples = encoded.examples
    contexts: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        contexts.setdefault(example.context, []).append(place)
    together = ([examples[place] for place in places] for places in contexts.values())
    return {
        "examples": len(examples),
        **{reason: len(names) for reason, names in encoded.left_out.items()},
        "left_out": {reason: list(names)[:20] for reason, names in encoded.left_out.items()},
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
