"""Predictions of the systems: loaded one after another, each asked everything at once."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from tasks.evaluation.questions import Question
from tasks.evaluation.scores import SCORES
from tasks.lm.generation import Generation, generate
from tasks.lm.memory import release_memory
from tasks.lm.models import LanguageModel, load_adapted, load_base, load_student
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.lm.prompts import Prompt
from tasks.records.predictions import Prediction
from tasks.serving.answering import prompt_sha256

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """Where the systems' weights lie, and the form they are computed in."""

    base: Path
    store: Path
    adapter: Path
    students: Path
    numeric_form: str

    def names(self) -> list[str]:
        """The students' names, as distillation named their folders."""
        return sorted(path.name for path in self.students.iterdir() if path.is_dir())

    def load(self, system: str, device: torch.device) -> LanguageModel:
        """One of the systems, in memory: base, adapter, student-NAME or twin-NAME."""
        role, _, name = system.partition("-")
        if name:
            return load_student(self.students / name / role, device=device)
        form = self.numeric_form
        if system == "adapter":
            return load_adapted(
                self.base, self.store, self.adapter, numeric_form=form, device=device
            )
        return load_base(self.base, self.store, numeric_form=form, device=device)


@dataclass(frozen=True)
class Asking:
    """How prompts are made and decoded."""

    prompt_kit: Path
    max_new_tokens: int
    batch_size: int
    device: torch.device


@dataclass
class System:
    """One system: its size, what it answered so far, and the seconds that took with loading.

    `megabytes` are what its weights take as they are computed.
    """

    name: str
    parameters: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    predictions: list[Prediction] = field(default_factory=list)
    answers: dict[tuple[int, ...], Generation] = field(default_factory=dict)

    def ask(
        self,
        models: ModelFiles,
        groups: Sequence[Sequence[Question]],
        asking: Asking,
        progress: Callable[[int], None],
    ) -> None:
        """Load the model, let it answer one group after another, and let it go.

        A prompt seen before keeps its answer. What is decoded together is of one group, so that
        latencies compare between systems that were asked the same group. `progress` is told how
        many of the questions are done.
        """
        started = time.monotonic()
        model = models.load(self.name, asking.device)
        self.parameters = model.model.num_parameters()
        self.megabytes = model.model.get_memory_footprint() / 1e6
        done = 0
        for group in groups:
            self._answer(model, group, asking, partial(_further, progress, done))
            done += len(group)
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
        template = read_prompt_kit(asking.prompt_kit, model.tokenizer)
        asked = [
            Prompt(item.record.messages[:-1], tuple(passage.shown for passage in item.passages))
            for item in questions
        ]
        prompts = [tuple(ids) for ids in template.token_ids(model.tokenizer, asked)]
        # Oracle and retrieved are often the same prompt: each is decoded once.
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.answers]
        generations = generate(
            model,
            new,
            max_new_tokens=asking.max_new_tokens,
            batch_size=asking.batch_size,
            progress=lambda done, total: progress(len(questions) * done // max(total, 1)),
        )
        self.answers |= zip(new, generations, strict=True)
        self.predictions += [
            _prediction(self.name, question, prompt, self.answers[prompt])
            for question, prompt in zip(questions, prompts, strict=True)
        ]


def _further(progress: Callable[[int], None], done: int, count: int) -> None:
    """Tell of `count` more than were done."""
    progress(done + count)


def _prediction(
    system: str, question: Question, prompt: Sequence[int], generation: Generation
) -> Prediction:
    record = question.record
    scores = {name: score(generation.text, record.answer) for name, score in SCORES.items()}
    return Prediction(
        system=system,
        mode=question.mode,
        record=record.id,
        slice=record.slice,
        question=record.question,
        reference=record.answer,
        output=generation.text,
        prompt_sha256=prompt_sha256(prompt),
        retrieved=tuple(passage.id for passage in question.passages),
        latency_ms=generation.latency_ms,
        **scores,
    )
