"""Predictions of the systems: loaded one after another, each asked everything at once."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from transformers import PreTrainedTokenizerBase

from tasks.evaluation.questions import Question
from tasks.evaluation.row_scores import score_row
from tasks.lm.generation import Generation, generate
from tasks.lm.memory import release_memory
from tasks.lm.models import LanguageModel
from tasks.lm.peak import begin_peak, peak_bytes_since
from tasks.lm.prompts import Prompt, PromptTemplate
from tasks.records.predictions import Prediction
from tasks.serving.answering import prompt_sha256

LOGGER = logging.getLogger(__name__)

# The template with which a model of this tokenizer is asked.
ReadTemplate = Callable[[PreTrainedTokenizerBase], PromptTemplate]


@dataclass(frozen=True)
class Asking:
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
class Subject:
    """Who is asked, and how: a model that can be loaded, and the way it is prompted."""

    name: str
    load: Callable[[torch.device], LanguageModel]
    asking: Asking


@dataclass
class System:
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
        subject: Subject,
        groups: Sequence[Sequence[Question]],
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
            self._answer(model, group, subject.asking, partial(_further, progress, done))
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
        questions: Sequence[Question],
        asking: Asking,
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


def _further(progress: Callable[[int], None], done: int, count: int) -> None:
    """Tell of `count` more than were done."""
    progress(done + count)


def final_answer(output: str, marker: str | None) -> str:
    """What follows the last marker in an output; the whole output where there is none."""
    return output if marker is None else output.rpartition(marker)[2].strip()


def _prediction(
    system: str,
    question: Question,
    prompt: Sequence[int],
    generation: Generation,
    asking: Asking,
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
        **score_row(output, question, asking.abstentions),
    )
