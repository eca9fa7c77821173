"""What fine-tuning forgot: general text, and plain instructions that have one right answer.

Both are small, in `general/`, and have nothing to do with the night's data. The instructions are
such that the default base gets them right; what another base gets right is found out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.generation.greedy_decoding import Generation
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import Turn, encode_chats, encode_texts
from tasks.records.schema import read_rows
from tasks.scoring.tokens import answer_tokens
from tasks.sequences.examples import Example
from tasks.sequences.likelihood import log_likelihoods, perplexity

_FOLDER = Path(__file__).with_name("general")
TEXTS_FILE = _FOLDER / "texts.jsonl"
INSTRUCTIONS_FILE = _FOLDER / "instructions.jsonl"


@dataclass(frozen=True)
class Text:
    """A short passage of general text."""

    id: str
    language: str
    text: str


@dataclass(frozen=True)
class Instruction:
    """A plain instruction, and the answers of which an output must hold one."""

    id: str
    instruction: str
    answers: tuple[str, ...]

    def is_followed(self, output: str) -> bool:
        """Return whether an output holds one of the answers as whole tokens."""
        said = answer_tokens(output)
        return any(_holds(said, answer_tokens(answer)) for answer in self.answers)


def _holds(tokens: Sequence[str], part: Sequence[str]) -> bool:
    starts = range(len(tokens) - len(part) + 1)
    return any(list(tokens[at : at + len(part)]) == list(part) for at in starts)


@dataclass(frozen=True)
class General:
    """What one system makes of it: log-likelihoods and tokens by language, instructions by id."""

    log_likelihood: dict[str, float]
    tokens: dict[str, int]
    outputs: dict[str, str]
    right: frozenset[str]

    @property
    def perplexity(self) -> float:
        """Return the perplexity of a token of all texts."""
        return perplexity(sum(self.log_likelihood.values()), sum(self.tokens.values()))


def read_texts() -> list[Text]:
    """Read the texts that lie beside this module."""
    return [Text(**row) for row in read_rows(TEXTS_FILE)]


def read_instructions() -> list[Instruction]:
    """Read the instructions that lie beside this module."""
    rows = read_rows(INSTRUCTIONS_FILE)
    return [Instruction(**row | {"answers": tuple(row["answers"])}) for row in rows]


def measure_general(
    texts: Sequence[Text],
    instructions: Sequence[Instruction],
    generate: Callable[..., list[Generation]],
    max_tokens: int,
    model: LanguageModel,
) -> General:
    """Put texts and instructions to a model in memory; `generate` is bound to its lengths."""
    outputs = _follow(model, instructions, generate)
    right = {item.id for item in instructions if item.is_followed(outputs[item.id])}
    likelihood: dict[str, float] = {}
    tokens: dict[str, int] = {}
    examples = _examples(model, texts)
    values = log_likelihoods(model.model, examples, max_tokens=max_tokens)
    for text, example, value in zip(texts, examples, values, strict=True):
        likelihood[text.language] = likelihood.get(text.language, 0.0) + value
        tokens[text.language] = tokens.get(text.language, 0) + example.supervised
    return General(likelihood, tokens, outputs, frozenset(right))


def _follow(
    model: LanguageModel,
    instructions: Sequence[Instruction],
    generate: Callable[..., list[Generation]],
) -> dict[str, str]:
    """Return the output to each instruction, asked in a chat with nothing else in it."""
    chats = [[Turn("user", (item.instruction,))] for item in instructions]
    made = generate(model, encode_chats(model.tokenizer, chats))
    return {item.id: answer.text for item, answer in zip(instructions, made, strict=True)}


def _examples(model: LanguageModel, texts: Sequence[Text]) -> list[Example]:
    """Return the texts as they are; the first token is given."""
    encoded = encode_texts(model.tokenizer, [text.text for text in texts])
    return [
        Example(text.id, text.language, "", "text", text.id, tuple(ids), 1)
        for text, ids in zip(texts, encoded, strict=True)
    ]


def compare_general(base: General, adapter: General) -> dict[str, Any]:
    """Return what the adapter forgot, as `metrics.json` holds it.

    `perplexity_ratio` is the adapter's over the base's, 1 where nothing changed; by language as
    well. `instructions_kept` is the share of the instructions that the base gets right and the
    adapter too; null with a reason where the base gets none right.
    """
    found: dict[str, Any] = {
        name: {"perplexity": one.perplexity, "instructions_right": len(one.right)}
        for name, one in (("base", base), ("adapter", adapter))
    }
    found["perplexity_ratio"] = adapter.perplexity / base.perplexity
    found["perplexity_ratio_by_language"] = {
        language: perplexity(adapter.log_likelihood[language], tokens)
        / perplexity(base.log_likelihood[language], tokens)
        for language, tokens in base.tokens.items()
    }
    found["instructions"] = len(base.outputs)
    found["tokens"] = sum(base.tokens.values())
    found["instructions_kept"] = None
    if base.right:
        found["instructions_kept"] = len(base.right & adapter.right) / len(base.right)
    else:
        found["instructions_kept_reason"] = "the base gets none of the instructions right"
    return found
