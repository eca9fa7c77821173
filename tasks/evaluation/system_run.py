"""One system run: loaded, its answers scored, and the likelihoods of the references taken."""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch
from transformers import PreTrainedTokenizerBase

from tasks.answering.pipeline import prompt_sha256
from tasks.evaluation.requests import Request
from tasks.generation.greedy_decoding import Generation, generate
from tasks.models.loading import LanguageModel
from tasks.models.memory import begin_peak, peak_bytes_since, release_memory
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.predictions import Likelihood, Prediction
from tasks.records.schema import Record
from tasks.scoring.answer_scores import chrf, exact_match, length_ratio, rouge_l, token_f1
from tasks.scoring.grounding import ShownPassages, ground
from tasks.sequences.likelihood import perplexity, reference_likelihoods


class RowScores(TypedDict):
    """Fields of `Prediction`; what each means, and when it is None, is told there."""

    exact_match: float
    token_f1: float
    rouge_l: float
    chrf: float
    length_ratio: float | None
    groundedness: float | None
    unsupported: int
    attribution: float | None
    citation: float | None


def score_answer(output: str, question: Request, markers: Sequence[str]) -> RowScores:
    """The scores of an answer to a question; `markers` begin an answer that abstains."""
    record, passages, reference = question.record, question.passages, question.reference
    shown = ShownPassages(
        record.question,
        tuple(passage.shown for passage in passages),
        tuple(passage.document in record.documents for passage in passages),
    )
    found = ground(output, shown, markers)
    return RowScores(
        exact_match=exact_match(output, reference),
        token_f1=token_f1(output, reference),
        rouge_l=rouge_l(output, reference),
        chrf=chrf(output, reference),
        length_ratio=length_ratio([output], [reference]),
        groundedness=found.groundedness,
        unsupported=found.unsupported,
        attribution=found.attribution,
        citation=found.citation,
    )


LOGGER = logging.getLogger(__name__)

# The template with which a model of this tokenizer is asked.
ReadTemplate = Callable[[PreTrainedTokenizerBase], PromptTemplate]


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are made and decoded.

    Where `answer_after` is not None, what follows its last occurrence in an output is the answer;
    an output without it is an answer as a whole.
    """

    template: ReadTemplate
    max_new_tokens: int
    batch_size: int
    device: torch.device
    answer_after: str | None
    abstentions: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """Who is asked, and how: a model that can be loaded, and the way it is prompted."""

    name: str
    load: Callable[[torch.device], LanguageModel]
    asking: PromptSettings


@dataclass
class SystemResult:
    """One system: its size, what it answered so far, and the seconds that took with loading.

    `megabytes` are what its weights take as they are computed, `peak_megabytes` the most that the
    process held of the device while the model was loaded and answered, None where the system does
    not tell; `first_group_seconds` what decoding the first group of questions took, which every
    system is asked alike.
    """

    name: str
    parameters: int = 0
    megabytes: float = 0.0
    peak_megabytes: float | None = None
    seconds: float = 0.0
    first_group_seconds: float = 0.0
    predictions: list[Prediction] = field(default_factory=list)
    answers: dict[tuple[int, ...], Generation] = field(default_factory=dict)

    def ask(
        self,
        subject: System,
        groups: Sequence[Sequence[Request]],
        progress: Callable[[int], None],
        measures: Sequence[Callable[[str, LanguageModel], None]] = (),
    ) -> None:
        """Load the model, let it answer one group after another, measure it, and let it go.

        A prompt seen before keeps its answer. What is decoded together is of one group, so that
        latencies compare between systems that were asked the same group. `progress` is told how
        many of the questions are done.
        """
        started = time.monotonic()
        device = subject.asking.device
        tells_peak = begin_peak(device)
        model = subject.load(device)
        self.parameters = model.model.num_parameters()
        self.megabytes = model.model.get_memory_footprint() / 1e6
        done = 0
        for group in groups:
            self._answer(model, group, subject.asking, partial(_progress_from, progress, done))
            done += len(group)
        if tells_peak:
            self.peak_megabytes = max(self.peak_megabytes or 0, peak_bytes_since(device) / 1e6)
        for measure in measures:
            measure(self.name, model)
        del model
        release_memory()
        self.seconds += time.monotonic() - started
        LOGGER.info("%s: %d answers in %.1f s", self.name, done, self.seconds)

    def _answer(
        self,
        model: LanguageModel,
        questions: Sequence[Request],
        asking: PromptSettings,
        progress: Callable[[int], None],
    ) -> None:
        asked = [
            Prompt(item.record.messages[:-1], tuple(passage.shown for passage in item.passages))
            for item in questions
        ]
        ids = asking.template(model.tokenizer).token_ids(model.tokenizer, asked)
        prompts = [tuple(prompt) for prompt in ids]
        # Oracle and retrieved are often the same prompt: each is decoded once.
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.answers]
        started = time.monotonic()
        generations = generate(
            model,
            new,
            max_new_tokens=asking.max_new_tokens,
            batch_size=asking.batch_size,
            progress=lambda done, total: progress(len(questions) * done // max(total, 1)),
        )
        if not self.predictions:
            self.first_group_seconds = time.monotonic() - started
        self.answers |= zip(new, generations, strict=True)
        self.predictions += [
            _prediction(self.name, question, prompt, self.answers[prompt], asking)
            for question, prompt in zip(questions, prompts, strict=True)
        ]


def _progress_from(progress: Callable[[int], None], done: int, count: int) -> None:
    """Tell of `count` more than were done."""
    progress(done + count)


def final_answer(output: str, marker: str | None) -> str:
    """What follows the last marker in an output; the whole output where there is none."""
    return output if marker is None else output.rpartition(marker)[2].strip()


def _prediction(
    system: str,
    question: Request,
    prompt: Sequence[int],
    generation: Generation,
    asking: PromptSettings,
) -> Prediction:
    record = question.record
    output = final_answer(generation.text, asking.answer_after)
    return Prediction(
        system=system,
        mode=question.mode,
        record=record.id,
        slice=record.slice,
        question=record.question,
        reference=question.reference,
        output=output,
        prompt_sha256=prompt_sha256(prompt),
        retrieved=tuple(passage.id for passage in question.passages),
        first_token_ms=generation.first_token_ms,
        latency_ms=generation.latency_ms,
        new_tokens=len(generation.token_ids),
        is_cut=generation.is_cut,
        **score_answer(output, question, asking.abstentions),
    )


@dataclass
class LikelihoodTest:
    """Takes the likelihood of the same records' answers from one system after another.

    Closed book, because then the prompt's beginning is shared by all records and computed once a
    pack. `rows` gathers what was found.
    """

    records: Sequence[Record]
    max_tokens: int
    rows: list[Likelihood] = field(default_factory=list)

    def measure(self, template: ReadTemplate, system: str, model: LanguageModel) -> None:
        """Take them from a model in memory, asked with a template."""
        asked = template(model.tokenizer)
        self.rows += reference_likelihoods(
            system, model, asked, self.records, max_tokens=self.max_tokens
        )


def perplexities(rows: Sequence[Likelihood]) -> dict[str, Mapping[str, float | int]]:
    """By system: the perplexity of a reference's token, and over how much it was taken."""
    systems = dict.fromkeys(row.system for row in rows)
    found: dict[str, Mapping[str, float | int]] = {}
    for system in systems:
        own = [row for row in rows if row.system == system]
        tokens = sum(row.tokens for row in own)
        value = perplexity(sum(row.log_likelihood for row in own), tokens)
        found[system] = {"perplexity": value, "records": len(own), "tokens": tokens}
    return found


_CPUINFO = Path("/proc/cpuinfo")


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Processor, cores, the device used and the Python version."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The processor's model where the system tells it, else its architecture."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
