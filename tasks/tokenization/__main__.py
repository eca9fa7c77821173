"""Records rendered by one prompt template and turned into token ids, answers marked as learned."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tasks.lexical.chunking import Passage
from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.prompting.files import PROMPT
from tasks.prompting.passages import cut_passages
from tasks.prompting.prompt_bundle import write_prompt_bundle
from tasks.prompting.templates import PromptTemplate, as_turns, choose_demonstrations
from tasks.records.language import AUTO, data_language
from tasks.records.schema import SPLITS, Document, Record, read_documents, read_records
from tasks.sequences.examples import write_examples, write_weights
from tasks.sequences.packing import distinct_tokens
from tasks.stage.command import output, run_stage
from tasks.stage.metrics import write_metrics
from tasks.stage.outputs import output_folders, verified
from tasks.stage.pages import plain_markdown
from tasks.task_types.summarize import SUMMARIZE, check_summaries
from tasks.task_types.table import TrainedTask
from tasks.task_types.tools import TOOLS
from tasks.tokenization.calls import call_counts, calls_line, check_tools
from tasks.tokenization.extra_examples import ExtraExamples, encode_extra, extra_lines
from tasks.tokenization.labels import (
    check_said,
    corrections_outside,
    count_labels,
    labels_line,
    trained_task,
)
from tasks.tokenization.params import Params
from tasks.tokenization.summaries import limits_error, summaries_line, summary_counts
from tasks.tokenization.training_examples import (
    Context,
    EncodedSplit,
    choose_contexts,
    encode_records,
    gold_passages,
    make_prompts,
)
from tasks.tokenization.usability import usability_error

LOGGER = logging.getLogger(__name__)
REPORT_FILE = "report.md"
PROMPTS = Path("params/prompts")


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes."""

    curated: Path
    source_weights: Path
    base: Path
    embedder: Path
    model_store: Path
    scratch: Path
    tokens: Path = output()
    tokenization_report: Path = output()


def run(params: Params, paths: Paths) -> None:
    """Write `tokens/{train,validation,test}.parquet`, `tokens/prompt/` and the report.

    Raises:
        ConfigError: a label is longer than what a model may say.
        DataError: no training example can be used, or the answers are none of the task, or there
            are no documents or preference pairs where params ask for them.
        GateError: a greater share of the examples than params allow cannot be used, or of the
            answers is longer than what a model may say.
    """
    (paths.scratch / REPORT_FILE).unlink(missing_ok=True)  # an earlier night's
    curated, settings = verified(paths.curated), params.tokenization
    tokenizer = load_tokenizer(ModelManifest.read(paths.base).folder(paths.model_store))
    splits = {name: read_records(curated / f"{name}.jsonl") for name in SPLITS}
    documents = read_documents(curated / "documents.jsonl")
    task = _checked_task(params, splits, tokenizer)
    outside = corrections_outside(task, splits["train"])
    outside |= check_tools(task, splits, settings.demonstrations)
    splits["train"] = learned = [row for row in splits["train"] if row.id not in outside]
    shown = choose_demonstrations(splits["train"], settings.demonstrations, settings.seed)
    splits["train"] = [record for record in splits["train"] if record not in shown]
    path = _template(task, settings.template, params.prompting.language, curated)
    template = PromptTemplate.load(path, as_turns(shown))
    passages = _passages(documents, params, paths)
    contexts, encoded = _encode(splits, passages, template, tokenizer, params)
    names = [record.id for record in shown]
    metrics = {"template": path.name} | _metrics(template.digest, names, encoded, params)
    metrics |= _task_counts(task, learned, splits, outside)
    _check_usable(task, splits, encoded, params, paths.scratch / REPORT_FILE, _report(metrics))
    extra = encode_extra(documents, splits, encoded, tokenizer, settings)
    metrics |= extra.counts
    LOGGER.info("%s", _report(metrics))
    golden = make_prompts(splits["train"], contexts["train"])
    with output_folders(paths.tokens, paths.tokenization_report) as (tokens, report):
        write_prompt_bundle(tokens / PROMPT, template, tokenizer, golden)
        task.write(tokens / PROMPT)
        _write_examples(encoded, extra, paths.source_weights, tokens)
        write_metrics(report, metrics)
        (report / REPORT_FILE).write_text(plain_markdown(_report(metrics)), encoding="utf-8")


def _checked_task(
    params: Params, splits: Mapping[str, Sequence[Record]], tokenizer: PreTrainedTokenizerBase
) -> TrainedTask:
    """Return what is trained for, which the base's tokenizer and the answers allow.

    Raises:
        ConfigError: a label is longer than what a model may say.
        DataError: the answers are none of the task.
    """
    task = trained_task(params.task, splits["train"])
    check_said(task.labels, tokenizer, params.prompting.max_new_tokens)
    if task.type == SUMMARIZE:
        check_summaries(splits)
    return task


def _encode(
    splits: Mapping[str, Sequence[Record]],
    passages: Sequence[Passage],
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    params: Params,
) -> tuple[dict[str, dict[str, Context]], dict[str, EncodedSplit]]:
    """Return what is shown with each record and its examples, by split."""
    contexts, encoded = {}, {}
    count, settings = params.prompting.passages, params.tokenization
    for name, records in splits.items():
        shown_with = choose_contexts(records, passages, count=count, params=settings)
        gold = gold_passages(records, passages)
        contexts[name] = shown_with
        encoded[name] = encode_records(records, shown_with, gold, template, tokenizer, settings)
    return contexts, encoded


def _write_examples(
    encoded: Mapping[str, EncodedSplit], extra: ExtraExamples, source_weights: Path, tokens: Path
) -> None:
    """Write all examples, a file a kind, and what their sources weigh."""
    for name, found in encoded.items():
        write_examples(tokens / f"{name}.parquet", found.examples)
    for file, examples in extra.files.items():
        write_examples(tokens / file, examples)
    write_weights(tokens, json.loads(source_weights.read_text(encoding="utf-8")))


def _task_counts(
    task: TrainedTask,
    learned: Sequence[Record],
    splits: Mapping[str, Sequence[Record]],
    outside: Mapping[str, str],
) -> dict[str, object]:
    """Return what is counted of a task's answers, which of task answer is nothing."""
    if task.labels:
        return {"labels": count_labels(task.labels, learned, splits, outside)}
    if task.type == TOOLS:
        return {"calls": call_counts(splits, outside)}
    return {"summaries": summary_counts(splits)} if task.type == SUMMARIZE else {}


def _check_usable(
    task: TrainedTask,
    splits: Mapping[str, Sequence[Record]],
    encoded: Mapping[str, EncodedSplit],
    params: Params,
    report: Path,
    text: str,
) -> None:
    """Check that enough can be learned from and said; else leave the report and say why not.

    Raises:
        DataError: nothing can be used.
        GateError: too little can.
    """
    own = limits_error(encoded, params) if task.type == SUMMARIZE else None
    error = own or usability_error(splits, encoded, params)
    if error is not None:
        LOGGER.info("%s", text)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(plain_markdown(f"{text}\n{error.message}\n"), encoding="utf-8")
        raise error


def _template(task: TrainedTask, named: str, language: str, curated: Path) -> Path:
    """Return the template that params name; with `auto` the task's, in the data's language."""
    if named != AUTO:
        return Path(named)
    stem = task.type.prompt
    own = PROMPTS / f"{stem}.{data_language(language, curated)}.jinja"
    return own if own.exists() else PROMPTS / f"{stem}.jinja"


def _passages(documents: Sequence[Document], params: Params, paths: Paths) -> list[Passage]:
    return cut_passages(
        documents,
        params.prompting,
        base=paths.base,
        embedder=paths.embedder,
        model_store=paths.model_store,
    )


def _metrics(
    digest: str, demonstrations: list[str], encoded: dict[str, EncodedSplit], params: Params
) -> dict[str, object]:
    most = params.prompting.max_new_tokens
    return {
        "template_sha256": digest,
        "demonstrations": demonstrations,
        **{name: _count(found, most) for name, found in encoded.items()},
    }


def _count(encoded: EncodedSplit, max_new_tokens: int) -> dict[str, object]:
    examples = encoded.examples
    contexts: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        contexts.setdefault(example.context, []).append(place)
    together = ([examples[place] for place in places] for places in contexts.values())
    return {
        "records": len(encoded.lengths),
        "examples": len(examples),
        **{reason: len(names) for reason, names in encoded.left_out.items()},
        "shortened": len(encoded.shortened),
        "long_answers": len(encoded.long_answers(max_new_tokens)),
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
        "shortened": "with fewer passages",
        "long_answers": "answer too long to be said",
        "contexts": "contexts",
        "tokens": "tokens",
        "distinct_tokens": "with shared prefixes once",
        "supervised_tokens": "learned",
    }
    lines = [
        "# Tokenization",
        "",
        f"Template {metrics['template']}, {str(metrics['template_sha256'])[:12]}.",
        "",
        f"| split | {' | '.join(columns.values())} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    for split in SPLITS:
        row = metrics[split]
        assert isinstance(row, dict)
        lines.append(f"| {split} | {' | '.join(str(row[name]) for name in columns)} |")
    if isinstance(labels := metrics.get("labels"), dict):
        lines += ["", labels_line(labels)]
    if isinstance(summaries := metrics.get("summaries"), dict):
        lines += ["", summaries_line(summaries)]
    if isinstance(calls := metrics.get("calls"), dict):
        lines += ["", calls_line(calls)]
    lines += extra_lines(metrics)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_stage("tokenization", Params, Paths, run))
