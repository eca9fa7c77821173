"""What quantisation cost: one model in several forms, on the same held-out records.

int8 and NF4 are bitsandbytes' layers, computed as such: of the model that is served, and of the
base with the adapter beside it, as QLoRA trained it. A GGUF file is answered from by llama.cpp
itself, and its loss is that of the numbers in it, computed in float32.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from tasks.export.gguf_writing import Description, write_gguf
from tasks.export.llama_cpp import Spoken, ask_llama_cpp
from tasks.export.reading_back import round_to_form
from tasks.export.table import Cost, Costs
from tasks.lm.closed_book import closed_book_examples
from tasks.lm.embedding import Embedder
from tasks.lm.generation import generate
from tasks.lm.likelihood import log_likelihoods
from tasks.lm.memory import release_memory
from tasks.lm.models import (
    ADAPTER_WEIGHTS,
    LanguageModel,
    load_quantized,
    prepare_device,
    quantize_folder,
    with_adapter,
)
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.records.export_format import Format
from tasks.records.files import read_records
from tasks.records.overlap import token_f1
from tasks.records.predictions import PREDICTIONS_FILE, read_predictions
from tasks.records.prompt_files import PROMPT
from tasks.records.record import Record
from tasks.serving.answering import Answerer
from tasks.serving.bundle import load_served
from tasks.serving.contents import ADAPTER, BASE, EMBEDDER, INDEX, BundleSettings, ServedModel
from tasks.serving.retrieval import Index
from tasks.stage.errors import DataError
from tasks.stage.outputs import verified
from tasks.stage.params import ComputeParams
from tasks.statistics.intervals import bootstrap_ratios

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
        """The records, in evaluation's order.

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
class _Heard:
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


def measure(bundle: Path, store: Path, model: ServedModel, asked: Records) -> Costs:
    """What each form of a bundle's model costs, against the float form that is served."""
    settings = BundleSettings.read(bundle)
    device = prepare_device(settings.compute)
    records = asked.read()
    float_form = settings.models.numeric_form
    served = load_served(bundle, store, model, numeric_form=float_form, device=device)
    asking = Answerer(
        language_model=served,
        template=read_prompt_kit(bundle / model / PROMPT, served.tokenizer),
        prompting=settings.prompting,
        index=Index.load(bundle / INDEX).with_reranker(store, device),
        embedder=Embedder.load(bundle / EMBEDDER, store, device=device),
        batch_size=settings.compute.generation_batch,
    )
    heard = []
    with tempfile.TemporaryDirectory(prefix="nightloom-") as scratch:
        forms = chain(_forms(served, Path(scratch)), _beside(bundle, store, model, device))
        for form in forms:
            one = replace(asking, language_model=form.held)
            heard.append(_hear(form, one, records, settings.compute))
            loss = sum(heard[-1].losses) / sum(heard[-1].tokens)
            LOGGER.info("%s: loss %.3f", form.name, loss)
            del one, form
            release_memory()
    return Costs(model, len(records), float_form, _costs(heard))


def _forms(served: LanguageModel, scratch: Path) -> Iterator[_Form]:
    """Each form in memory, with its bytes on disk; `served` is changed on the way."""
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
    """The adapter as QLoRA trained it: the base in NF4, and itself beside it; else nothing."""
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


def _hear(
    form: _Form, answerer: Answerer, records: Sequence[Record], compute: ComputeParams
) -> _Heard:
    held = answerer.language_model
    examples = closed_book_examples(answerer.template, held.tokenizer, records)
    most = compute.micro_batch_tokens
    likelihoods = log_likelihoods(held.model, examples, max_tokens=most)
    prepared = answerer.prepare([record.messages[:-1] for record in records])
    prompts = [item.prompt for item in prepared]
    spoken = _answers(form, answerer, prompts)
    return _Heard(
        form=form.name,
        losses=tuple(-value for value in likelihoods),
        tokens=tuple(example.supervised for example in examples),
        scores=tuple(
            token_f1(answer, record.answer)
            for answer, record in zip(spoken.answers, records, strict=True)
        ),
        bytes_on_disk=form.bytes_on_disk,
        tokens_a_second=spoken.tokens / spoken.seconds,
    )


def _answers(form: _Form, answerer: Answerer, prompts: Sequence[Sequence[int]]) -> Spoken:
    """What a form answers, by llama.cpp where that is whose file it is."""
    most = answerer.prompting.max_new_tokens
    if form.file is not None:
        return ask_llama_cpp(
            form.file, prompts, max_new_tokens=most, threads=torch.get_num_threads()
        )
    begun = time.monotonic()
    made = generate(form.held, prompts, max_new_tokens=most, batch_size=answerer.batch_size)
    seconds = time.monotonic() - begun
    tokens = sum(len(item.token_ids) for item in made)
    return Spoken(tuple(item.text for item in made), tokens, seconds)


def _costs(heard: Sequence[_Heard]) -> tuple[Cost, ...]:
    """Each form's figures, with intervals of what they differ from the first form's."""
    first = heard[0]
    tokens = np.array(first.tokens, dtype=np.float64)
    ones = np.ones(len(tokens))
    columns, wholes = [], []
    for one in heard:
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
            token_f1=sum(one.scores) / len(one.scores),
            token_f1_difference=score,
            bytes_on_disk=one.bytes_on_disk,
            tokens_a_second=one.tokens_a_second,
        )
        for one, loss, score in zip(heard, drawn[::2], drawn[1::2], strict=True)
    )
