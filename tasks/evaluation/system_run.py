"""One system run: loaded, its answers scored, and measured while it is in memory."""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import torch

from tasks.answering.pipeline import prompt_sha256
from tasks.evaluation.requests import Request
from tasks.evaluation.systems import PromptSettings, ReadTemplate, System
from tasks.generation.greedy_decoding import Generation
from tasks.models.loading import LanguageModel
from tasks.models.memory import ReadPeak, release_memory
from tasks.prompting.templates import Prompt
from tasks.records.predictions import Likelihood, Prediction, record_scores
from tasks.records.schema import Record
from tasks.records.tool_text import offered
from tasks.scoring.answer_scores import chrf, exact_match, length_ratio, rouge_l, token_f1
from tasks.scoring.call_scores import score_calls
from tasks.scoring.grounding import ShownPassages, ground
from tasks.scoring.label_scores import label_match
from tasks.scoring.summary_scores import score_summary
from tasks.sequences.likelihood import AnswerLikelihood, perplexity, reference_likelihoods
from tasks.task_types.chat import turn_number

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


class RowScores(TypedDict):
    """Fields of `Prediction`; what each means, and when it is None, is told there."""

    exact_match: float | None
    token_f1: float | None
    rouge_l: float | None
    chrf: float | None
    length_ratio: float | None
    groundedness: float | None
    unsupported: int
    attribution: float | None
    citation: float | None
    accuracy: NotRequired[float]
    rouge_1: NotRequired[float]
    rouge_2: NotRequired[float]
    compression: NotRequired[float]
    supported_terms: NotRequired[float | None]
    supported_sentences: NotRequired[float | None]
    numbers_and_names: NotRequired[int]
    turn: NotRequired[int]
    turn_score: NotRequired[float]
    call_match: NotRequired[float | None]
    name_match: NotRequired[float | None]
    words_f1: NotRequired[float | None]
    calls: NotRequired[int]
    broken_calls: NotRequired[int]
    unoffered_calls: NotRequired[int]


# The scores of an output to a request.
ScoreAnswer = Callable[[str, Request], RowScores]


def score_answer(output: str, request: Request, markers: Sequence[str]) -> RowScores:
    """Return the scores of an answer to a request; `markers` begin an answer that abstains."""
    return _score_words(output, request, request.record.question, markers)


def score_turn(output: str, request: Request, markers: Sequence[str]) -> RowScores:
    """Return the scores of a turn of a conversation; what was said before supports it, too."""
    turns = [turn.content for turn in request.record.messages[:-1] if turn.role != "system"]
    found = _score_words(output, request, "\n".join(turns), markers)
    return {**found, "turn": turn_number(request.record)}


def _score_words(output: str, request: Request, question: str, markers: Sequence[str]) -> RowScores:
    record, passages, reference = request.record, request.passages, request.reference
    shown = ShownPassages(
        question,
        tuple(passage.shown for passage in passages),
        tuple(passage.document_id in record.documents for passage in passages),
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


# Scores of words, where these are not what counts.
_NO_WORDS = RowScores(
    exact_match=None,
    token_f1=None,
    rouge_l=None,
    chrf=None,
    length_ratio=None,
    groundedness=None,
    unsupported=0,
    attribution=None,
    citation=None,
)


def score_label(output: str, request: Request) -> RowScores:
    """Return the score of a label: right or wrong, and none of the scores of words."""
    return {**_NO_WORDS, "accuracy": label_match(output, request.reference)}


def score_summary_of(output: str, request: Request) -> RowScores:
    """Return the scores of a summary against its reference and against its text, the question."""
    found = score_summary(output, request.record.question, request.reference)
    return {
        **_NO_WORDS,
        "rouge_l": found.rouge_l,
        "length_ratio": length_ratio([output], [request.reference]),
        "unsupported": found.unsupported,
        "rouge_1": found.rouge_1,
        "rouge_2": found.rouge_2,
        "compression": found.compression,
        "supported_terms": found.supported_terms,
        "supported_sentences": found.supported_sentences,
        "numbers_and_names": found.numbers_and_names,
    }


def score_call(output: str, request: Request) -> RowScores:
    """Return the scores of a turn that may call the tools that its record offers."""
    found = score_calls(output, request.reference, offered(request.record.messages))
    return {
        **_NO_WORDS,
        "turn_score": found.turn_score,
        "call_match": found.call_match,
        "name_match": found.name_match,
        "words_f1": found.words_f1,
        "calls": found.calls,
        "broken_calls": found.broken_calls,
        "unoffered_calls": found.unoffered_calls,
    }


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """What one system answered to one request, and what that is worth."""

    request: Request
    prompt: tuple[int, ...]
    output: str
    generation: Generation
    scores: RowScores

    def named(self, system: str) -> Prediction:
        """Return it as a row of a system that is known by this name."""
        record, generation = self.request.record, self.generation
        return Prediction(
            system=system,
            mode=self.request.mode,
            record=record.id,
            slice=record.slice,
            question=record.question,
            reference=self.request.reference,
            output=self.output,
            prompt_sha256=prompt_sha256(self.prompt),
            retrieved=tuple(passage.id for passage in self.request.passages),
            new_tokens=len(generation.token_ids),
            is_cut=generation.is_cut,
            probability=generation.probability,
            **self.scores,
        )


@dataclass(frozen=True)
class SystemResult(Generic[T]):
    """What one system answered, what it takes, and what was measured of it besides.

    `megabytes` are what its weights take as they are computed, `peak_megabytes` the most that the
    process held of the device while the model was loaded and answered, None where the system does
    not tell. `seconds` are those of loading, answering and measuring, `first_group_seconds` those
    of decoding the first group of requests, which every system is asked alike. `generations` are by
    prompt.
    """

    key: str
    parameters: int
    megabytes: float
    peak_megabytes: float | None
    seconds: float
    first_group_seconds: float
    answers: tuple[ScoredAnswer, ...]
    generations: Mapping[tuple[int, ...], Generation]
    measured: T

    def predictions(self, name: str) -> list[Prediction]:
        """Return its answers as rows of a system that is known by this name."""
        return [answer.named(name) for answer in self.answers]

    def scores(self, mode: str, metric: str) -> tuple[float, ...]:
        """Return a metric by record in one mode, in the order in which they were asked."""
        rows = [row for row in self.predictions(self.key) if row.mode == mode]
        return tuple(record_scores(rows, metric).values())

    def followed_by(self, later: "SystemResult[Any]") -> "SystemResult[T]":
        """Return it with what the same system answered in a later run."""
        peaks = [found.peak_megabytes for found in (self, later)]
        return replace(
            self,
            peak_megabytes=max((peak for peak in peaks if peak is not None), default=None),
            seconds=self.seconds + later.seconds,
            answers=self.answers + later.answers,
            generations=later.generations,
        )


@dataclass(frozen=True)
class _Group:
    """What was answered to one group of requests, and the seconds that decoding took."""

    answers: tuple[ScoredAnswer, ...]
    generations: Mapping[tuple[int, ...], Generation]
    seconds: float


def run_system(
    system: System,
    groups: Sequence[Sequence[Request]],
    *,
    score: ScoreAnswer,
    begin_peak: Callable[[], ReadPeak | None],
    measure: Callable[[LanguageModel], T],
    progress: Callable[[int], None] = lambda _: None,
    known: Mapping[tuple[int, ...], Generation] = MappingProxyType({}),
) -> SystemResult[T]:
    """Load a system, let it answer one group of requests after another, and measure it.

    A prompt that is `known` or came before is not decoded again. What is decoded together is of one
    group, so that latencies compare between systems. `progress` is told how many requests are done.
    """
    started = time.monotonic()
    read_peak = begin_peak()
    model = system.load()
    parameters = model.model.num_parameters()
    held = model.model.get_memory_footprint()
    answered: list[_Group] = []
    for group in groups:
        done = sum(len(one.answers) for one in answered)
        answered.append(_run_group(system.prompt, model, group, score, known, progress, done))
        known = answered[-1].generations
    peak = read_peak() if read_peak else None
    measured = measure(model)
    del model
    release_memory()
    result = SystemResult(
        key=system.name,
        parameters=parameters,
        megabytes=held / 1e6,
        peak_megabytes=None if peak is None else peak / 1e6,
        seconds=time.monotonic() - started,
        first_group_seconds=answered[0].seconds if answered else 0.0,
        answers=tuple(answer for one in answered for answer in one.answers),
        generations=known,
        measured=measured,
    )
    LOGGER.info("%s: %d answers in %.1f s", system.name, len(result.answers), result.seconds)
    return result


def _run_group(
    prompt: PromptSettings,
    model: LanguageModel,
    requests: Sequence[Request],
    score: ScoreAnswer,
    known: Mapping[tuple[int, ...], Generation],
    progress: Callable[[int], None],
    done: int,
) -> _Group:
    asked = [
        Prompt(item.record.messages[:-1], tuple(passage.shown for passage in item.passages))
        for item in requests
    ]
    ids = prompt.template(model.tokenizer).token_ids(model.tokenizer, asked)
    keys = [tuple(one) for one in ids]
    # Oracle and retrieved are often the same prompt: each is decoded once.
    new = [key for key in dict.fromkeys(keys) if key not in known]
    started = time.monotonic()
    decoded = prompt.decode(
        model,
        new,
        lambda count, total: progress(done + len(requests) * count // max(total, 1)),
    )
    seconds = time.monotonic() - started
    generations = {**known, **dict(zip(new, decoded, strict=True))}
    answers = []
    for request, key in zip(requests, keys, strict=True):
        output = final_answer(generations[key].text, prompt.answer_after)
        scores = score(output, request)
        answers.append(ScoredAnswer(request, key, output, generations[key], scores))
    return _Group(tuple(answers), generations, seconds)


def final_answer(output: str, marker: str | None) -> str:
    """Return what follows the last marker in an output; the whole output where there is none."""
    return output if marker is None else output.rpartition(marker)[2].strip()


def no_measure(model: LanguageModel) -> None:
    """Measure nothing of a model."""


def measure_likelihoods(
    template: ReadTemplate, records: Sequence[Record], max_tokens: int, model: LanguageModel
) -> tuple[AnswerLikelihood, ...]:
    """Return how likely a model, asked with a template, finds the records' answers.

    Closed book, because then the prompt's beginning is shared by all records and computed once a
    pack.
    """
    asked = template(model.tokenizer)
    return tuple(reference_likelihoods(model, asked, records, max_tokens=max_tokens))


def perplexities(rows: Sequence[Likelihood]) -> dict[str, Mapping[str, float | int]]:
    """Return, by system, the perplexity of a reference's token, and over how much it was taken."""
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
    """Return processor, cores, the device used and the Python version."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU",
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return the processor's model where the system tells it, else its architecture."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
