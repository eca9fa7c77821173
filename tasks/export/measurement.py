"""What quantisation cost: one model in several forms, on the same held-out records.

int8 and NF4 are bitsandbytes' layers, computed as such: of the model that is served, and of the
base with the adapter beside it, as QLoRA trained it. A GGUF file is answered from by llama.cpp
itself, and its loss is that of the numbers in it, computed in float32. The results are written
as JSON and as a table."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.answering.labels import read_labels
from tasks.answering.loading import load_served
from tasks.answering.pipeline import Answerer
from tasks.answering.release_bundle import ADAPTER, BASE, EMBEDDER, INDEX, BundleSettings
from tasks.embedding.embedder import Embedder
from tasks.export.formats import Format
from tasks.export.gguf_writing import Description, round_to_form, write_gguf
from tasks.export.llama_cpp import TimedAnswers, ask_llama_cpp
from tasks.generation.greedy_decoding import generate
from tasks.models.loading import (
    ADAPTER_WEIGHTS,
    LanguageModel,
    load_quantized,
    prepare_device,
    quantize_folder,
    with_adapter,
)
from tasks.models.memory import release_memory
from tasks.prompting.files import PROMPT
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.predictions import CALL_SCORES, LABEL_SCORE, PREDICTIONS_FILE, read_predictions
from tasks.records.schema import Record, ServedModel, read_records
from tasks.retrieval.index import Index
from tasks.scoring.answer_scores import SCORES
from tasks.scoring.call_scores import turn_score
from tasks.scoring.label_scores import label_match
from tasks.sequences.likelihood import closed_book_examples, log_likelihoods
from tasks.stage.errors import DataError
from tasks.stage.outputs import verified
from tasks.stage.pages import plain_markdown
from tasks.stage.params import ComputeParams
from tasks.statistics.bootstrap import Interval, bootstrap_ratios
from tasks.task_types.table import TrainedTask

JSON_FILE = "quantization.json"

TABLE_FILE = "quantization.md"


@dataclass(frozen=True)
class Cost:
    """One form: mean loss of a reference's token closed book, score with passages, size, speed.

    The differences are to the first form, paired by record, with a 95% bootstrap interval.
    `tokens_a_second` counts answers' tokens over all the time that answering took, prompts
    included.
    """

    form: str
    loss: float
    loss_difference: Interval
    score: float
    score_difference: Interval
    bytes_on_disk: int
    tokens_a_second: float


@dataclass(frozen=True)
class Costs:
    """Every form of one model; the first is what is served, computed in float32.

    Scores are in `metric`: token F1, of a classifier accuracy, of a summarizer ROUGE-L, of a model
    that calls tools the turn's score. Of a conversation the last turn is asked.
    """

    model: str
    records: int
    numeric_form: str
    rows: tuple[Cost, ...]
    metric: str = "token_f1"

    def numbers(self) -> dict[str, Any]:
        """Return them as `quantization.json` holds them, scores under the metric's name."""
        found = asdict(self)
        metric = found.pop("metric")
        names = {"score": metric, "score_difference": f"{metric}_difference"}
        found["rows"] = [
            {names.get(name, name): value for name, value in row.items()} for row in found["rows"]
        ]
        return found


def write_costs(folder: Path, costs: Costs) -> None:
    """Write both files into a folder."""
    text = json.dumps(costs.numbers(), indent=1, allow_nan=False)
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / TABLE_FILE).write_text(plain_markdown(render_costs(costs)), encoding="utf-8")


def render_costs(costs: Costs) -> str:
    """Return the table in Markdown."""
    shown = {"token_f1": "token F1", "rouge_l": "ROUGE-L"}.get(costs.metric, costs.metric)
    lines = [
        f"# What quantisation cost the {costs.model}",
        "",
        f"{costs.records} held-out records: the loss of a reference's token closed book (nats), "
        f"and {shown} of answers with passages. Differences are to the served form "
        f"(`{costs.numeric_form}`, computed in float32), paired by record, with 95% intervals. "
        "GGUF files are answered from by llama.cpp, up to 16 prompts at a time; their loss is that "
        "of the numbers in them, computed in float32. Tokens a second are those of answers, over "
        "the time that reading the prompts and answering took.",
        "",
        f"| form | loss | difference | {shown} | difference | MB on disk | tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in costs.rows:
        lines.append(
            f"| {row.form} | {row.loss:.3f} | {_shown(row.loss_difference)} | {row.score:.3f} | "
            f"{_shown(row.score_difference)} | {row.bytes_on_disk / 1e6:.0f} | "
            f"{row.tokens_a_second:.1f} |"
        )
    return "\n".join([*lines, ""])


def _shown(interval: Interval) -> str:
    if interval.value == interval.low == interval.high == 0:
        return "0"
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


LOGGER = logging.getLogger(__name__)

_WEIGHTS = "*.safetensors"

_CONFIDENCE, _RESAMPLES, _SEED = 0.95, 10_000, 17

_GGUF = (Format.gguf_f16, Format.gguf_q8_0, Format.gguf_q4_1, Format.gguf_q4_0)


@dataclass(frozen=True)
class Records:
    """Which records are asked: those that an evaluation scored, at most `count` of them."""

    curated: Path
    evaluation_report: Path
    count: int

    def read(self) -> list[Record]:
        """Return the records, in evaluation's order.

        Raises:
            DataError: the data set holds none of them.
        """
        rows = read_predictions(verified(self.evaluation_report) / PREDICTIONS_FILE)
        test = {item.id: item for item in read_records(verified(self.curated) / "test.jsonl")}
        names = dict.fromkeys(row.record for row in rows)
        found = [test[name] for name in names if name in test][: self.count]
        if not found:
            raise DataError(
                f"none of the {len(names)} records that {self.evaluation_report} scored is in the "
                f"test split of {self.curated}; there is nothing to measure on",
                "run `nightloom run`, so that both are of one night",
            )
        return found


@dataclass(frozen=True)
class _Measured:
    """What one form said: the answers' losses in nats and tokens, scores, bytes, speed."""

    form: str
    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    scores: tuple[float, ...]
    bytes_on_disk: int
    tokens_a_second: float


@dataclass(frozen=True)
class _Form:
    """A form in memory, how many bytes it has on disk, and its file where llama.cpp runs it."""

    name: str
    held: LanguageModel
    bytes_on_disk: int
    file: Path | None = None


# Scores of the tasks whose answers are no words.
_OF_TASKS = {LABEL_SCORE: label_match, CALL_SCORES[0]: turn_score}


def measure(bundle: Path, store: Path, model: ServedModel, asked: Records) -> Costs:
    """Return what each form of a bundle's model costs, against the float form that is served."""
    settings = BundleSettings.read(bundle)
    device = prepare_device(settings.compute)
    records = asked.read()
    task = TrainedTask.read(bundle / model / PROMPT)
    float_form = settings.models.numeric_form
    served = load_served(bundle, store, model, numeric_form=float_form, device=device)
    asking = Answerer(
        language_model=served,
        template=read_prompt_bundle(bundle / model / PROMPT, served.tokenizer),
        prompting=settings.prompting,
        index=Index.load(bundle / INDEX).with_reranker(store, device),
        load_embedder=partial(Embedder.load, bundle / EMBEDDER, store, device=device),
        query=task.query,
        batch_size=settings.compute.generation_batch,
        labels=read_labels(bundle / model / PROMPT, served),
    )
    measured = []
    metric = task.type.metric or "token_f1"
    score = _OF_TASKS.get(metric) or SCORES[metric]
    with tempfile.TemporaryDirectory(prefix="nightloom-") as scratch:
        forms = chain(_forms(served, Path(scratch)), _beside(bundle, store, model, device))
        for form in forms:
            one = replace(asking, language_model=form.held)
            measured.append(_measure_form(form, one, records, settings.compute, score))
            loss = sum(measured[-1].losses) / sum(measured[-1].tokens)
            LOGGER.info("%s: loss %.3f", form.name, loss)
            del one, form
            release_memory()
    return Costs(model, len(records), float_form, _costs(measured), metric)


def _forms(served: LanguageModel, scratch: Path) -> Iterator[_Form]:
    """Yield each form in memory, with its bytes on disk; `served` is changed on the way."""
    folder = scratch / "float"
    served.model.save_pretrained(folder)
    yield _Form("float32", served, _size(folder))
    for name, form in (("int8", "int8_dequantized"), ("nf4", "nf4_dequantized")):
        held = quantize_folder(
            folder, numeric_form=form, compute_dtype=torch.float32, device=served.device
        )
        held.save_pretrained(scratch / name)
        size = _size(scratch / name)
        shutil.rmtree(scratch / name)
        one = LanguageModel(held, served.tokenizer, served.digest)
        yield _Form(f"{name} (bitsandbytes)", one, size)
    exact = {name: weight.clone() for name, weight in served.model.state_dict().items()}
    for form in _GGUF:
        path = scratch / f"{form}.gguf"
        write_gguf(path, served, form, Description("measured", "", ""))
        round_to_form(served.model, form)
        yield _Form(str(form), served, path.stat().st_size, path)
        path.unlink()
        served.model.load_state_dict(exact)


def _beside(bundle: Path, store: Path, model: ServedModel, device: torch.device) -> Iterator[_Form]:
    """Yield the adapter as QLoRA trained it: itself beside the base in NF4; else nothing."""
    form, adapter = BundleSettings.read(bundle).models.numeric_form, bundle / ADAPTER
    if model != "adapter" or form != "nf4_dequantized" or not (adapter / ADAPTER_WEIGHTS).exists():
        return
    base = load_quantized(
        bundle / BASE, store, numeric_form=form, compute_dtype=torch.float32, device=device
    )
    with tempfile.TemporaryDirectory(prefix="nightloom-") as scratch:
        base.model.save_pretrained(scratch)
        size = _size(Path(scratch)) + (adapter / ADAPTER_WEIGHTS).stat().st_size
    yield _Form("nf4 base, adapter beside it", with_adapter(base, adapter), size)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(_WEIGHTS))


def _measure_form(
    form: _Form,
    answerer: Answerer,
    records: Sequence[Record],
    compute: ComputeParams,
    score: Callable[[str, str], float],
) -> _Measured:
    held = answerer.language_model
    examples = closed_book_examples(answerer.template, held.tokenizer, records)
    most = compute.micro_batch_tokens
    likelihoods = log_likelihoods(held.model, examples, max_tokens=most)
    prepared = answerer.prepare([record.messages[:-1] for record in records])
    prompts = [item.prompt for item in prepared]
    spoken = _answers(form, answerer, prompts)
    return _Measured(
        form=form.name,
        losses=tuple(-value for value in likelihoods),
        tokens=tuple(example.supervised for example in examples),
        scores=tuple(
            score(answer, record.answer)
            for answer, record in zip(spoken.answers, records, strict=True)
        ),
        bytes_on_disk=form.bytes_on_disk,
        tokens_a_second=spoken.tokens / spoken.seconds,
    )


def _answers(form: _Form, answerer: Answerer, prompts: Sequence[Sequence[int]]) -> TimedAnswers:
    """Return what a form answers, by llama.cpp where that is whose file it is."""
    most = answerer.prompting.max_new_tokens
    if form.file is not None:
        return ask_llama_cpp(
            form.file, prompts, max_new_tokens=most, threads=torch.get_num_threads()
        )
    begun = time.monotonic()
    made = generate(
        form.held,
        prompts,
        max_new_tokens=most,
        batch_size=answerer.batch_size,
        labels=answerer.labels,
    )
    seconds = time.monotonic() - begun
    tokens = sum(len(item.token_ids) for item in made)
    return TimedAnswers(tuple(item.text for item in made), tokens, seconds)


def _costs(measured: Sequence[_Measured]) -> tuple[Cost, ...]:
    """Return each form's figures, with intervals of what they differ from the first form's."""
    first = measured[0]
    tokens = np.array(first.tokens, dtype=np.float64)
    ones = np.ones(len(tokens))
    columns, wholes = [], []
    for one in measured:
        columns += [np.subtract(one.losses, first.losses), np.subtract(one.scores, first.scores)]
        wholes += [tokens, ones]
    drawn = bootstrap_ratios(
        np.column_stack(columns),
        np.column_stack(wholes),
        confidence=_CONFIDENCE,
        resamples=_RESAMPLES,
        seed=_SEED,
    )
    return tuple(
        Cost(
            form=one.form,
            loss=sum(one.losses) / sum(one.tokens),
            loss_difference=loss,
            score=sum(one.scores) / len(one.scores),
            score_difference=score,
            bytes_on_disk=one.bytes_on_disk,
            tokens_a_second=one.tokens_a_second,
        )
        for one, loss, score in zip(measured, drawn[::2], drawn[1::2], strict=True)
    )
