"""Predictions of the systems: loaded one after another, each asked everything at once."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.evaluation.questions import Question
from tasks.evaluation.scores import SCORES
from tasks.lm.generation import Generation, generate
from tasks.lm.models import LanguageModel, load_adapted, load_base, load_student
from tasks.lm.prompt_kit import read_prompt_kit
from tasks.lm.prompts import Prompt
from tasks.records.predictions import SYSTEMS, Prediction
from tasks.serving.answering import prompt_sha256

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFiles:
    """Where the systems' weights lie, and the form they are computed in."""

    base: Path
    store: Path
    adapter: Path
    student: Path
    numeric_form: str

    def load(self, system: str, device: torch.device) -> LanguageModel:
        """One of the systems, in memory."""
        if system == "student":
            return load_student(self.student, device=device)
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


@dataclass(frozen=True)
class SystemAnswers:
    """What one system answered, and the seconds that it took with loading."""

    system: str
    predictions: tuple[Prediction, ...]
    seconds: float


def ask_systems(
    models: ModelFiles,
    questions: Sequence[Question],
    asking: Asking,
    progress: Callable[[int, int], None],
) -> Iterator[SystemAnswers]:
    """The answers of base, adapter and student, in that order; one model in memory at a time."""
    for place, system in enumerate(SYSTEMS):
        started = time.monotonic()
        model = models.load(system, asking.device)

        def tell(done: int, total: int, place: int = place) -> None:
            progress(place * total + done, len(SYSTEMS) * total)

        predictions = _ask(system, model, questions, asking, tell)
        del model
        _free()
        seconds = time.monotonic() - started
        LOGGER.info("%s: %d answers in %.1f s", system, len(predictions), seconds)
        yield SystemAnswers(system, tuple(predictions), seconds)


def _ask(
    system: str,
    model: LanguageModel,
    questions: Sequence[Question],
    asking: Asking,
    progress: Callable[[int, int], None],
) -> list[Prediction]:
    template = read_prompt_kit(asking.prompt_kit, model.tokenizer)
    asked = [
        Prompt(question.record.messages[:-1], tuple(passage.shown for passage in question.passages))
        for question in questions
    ]
    prompts = [tuple(ids) for ids in template.token_ids(model.tokenizer, asked)]
    # Oracle and retrieved are often the same prompt: each is decoded once.
    distinct = list(dict.fromkeys(prompts))
    generations = generate(
        model,
        distinct,
        max_new_tokens=asking.max_new_tokens,
        batch_size=asking.batch_size,
        progress=progress,
    )
    made = dict(zip(distinct, generations, strict=True))
    return [
        _prediction(system, question, prompt, made[prompt])
        for question, prompt in zip(questions, prompts, strict=True)
    ]


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


def _free() -> None:
    """Give a model's memory back before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
