"""The one way a question becomes a prompt, in training, evaluation and serving alike.

Few-shot demonstrations come from the training split."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.prompting.chat_encoding import Turn, encode_chats
from tasks.records.schema import Message, Record
from tasks.records.text import text_sha256
from tasks.records.tool_text import is_tools_alone
from tasks.stage.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What is asked: turns of which the last is the user's, and the passages shown with it."""

    turns: tuple[Message, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja template with three parts, and the examples shown before the question.

    Part `system` has no variables; `passages` has passages, and is left out where there are none;
    `question` has the question. Passages and question together are the user's turn.
    `demonstrations` are turns of the user and the assistant in turn (few-shot); none is zero-shot.
    The template is given passages as `quoted` leaves them.
    """

    text: str
    demonstrations: tuple[Message, ...]
    template: Template

    @classmethod
    def load(cls, path: Path, demonstrations: Sequence[Message] = ()) -> "PromptTemplate":
        """Return the template in a file; it runs in a sandbox and reaches nothing but its
        variables.

        Raises:
            ConfigError: the file is missing or is not a template.
        """
        try:
            text = path.read_text(encoding="utf-8")
            environment = ImmutableSandboxedEnvironment(
                undefined=StrictUndefined, trim_blocks=True, autoescape=False
            )
            return cls(text, tuple(demonstrations), environment.from_string(text))
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise ConfigError(
                f"the prompt template {path} cannot be used: {error}",
                "mend it, or name another in params/tokenization.yaml",
            ) from None

    @property
    def digest(self) -> str:
        """Return the version of the template: a hash of its text and its demonstrations."""
        turns = (f"{turn.role}\n{turn.content}" for turn in self.demonstrations)
        return text_sha256(self.text, *turns)

    def chats(self, prompts: Sequence[Prompt]) -> list[list[Turn]]:
        """Return the chat that asks the last turn of each prompt, with the passages above the
        question.

        A system turn of the prompt's own takes the place of the template's; one that shows tools
        alone comes below it.

        Raises:
            ConfigError: the template reaches for what it may not have.
        """
        system = Turn("system", (self._render("system"),))
        shown = [
            Turn(turn.role, self._asked(turn.content) if turn.role == "user" else (turn.content,))
            for turn in self.demonstrations
        ]
        distinct = {prompt.passages for prompt in prompts if prompt.passages}
        passages = {
            texts: self._render("passages", passages=tuple(map(quoted, texts)))
            for texts in distinct
        }
        chats = []
        for prompt in prompts:
            *history, question = prompt.turns
            turns = [Turn(turn.role, (turn.content,)) for turn in history]
            own = turns[:1] if turns and turns[0].role == "system" else []
            first = own or [system]
            if own and is_tools_alone(history[0].content):
                first = [Turn("system", (*system.texts, "\n\n", history[0].content))]
            asked = self._asked(question.content, passages.get(prompt.passages))
            chats.append([*first, *shown, *turns[len(own) :], Turn("user", asked)])
        return chats

    def token_ids(
        self, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]
    ) -> list[list[int]]:
        """Return the token ids of each prompt, ending where the answer begins.

        Text that spells one of the tokenizer's special tokens stays text: only the chat template's
        own markers become special tokens, so that no passage can forge a turn.
        """
        return encode_chats(tokenizer, self.chats(prompts))

    def _asked(self, question: str, passages: str | None = None) -> tuple[str, ...]:
        asked = self._render("question", question=question).strip()
        return (asked,) if passages is None else (passages, asked)

    def _render(self, part: str, **variables: object) -> str:
        try:
            return self.template.render(part=part, **variables)
        except (TemplateError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the prompt template failed in its part {part}: {error}; the part may use "
                f"{' and '.join(['part', *variables])}",
                "mend the template named in params/tokenization.yaml",
            ) from None


def quoted(passage: str) -> str:
    """Return the passage as data: every line but its first is indented by a space, blank ones left
    out.

    A prompt's own lines (a passage's number, the question) begin at the margin, where no line of a
    passage can stand, whatever breaks it. The indentation of code stays, one space deeper; with
    most tokenizers the space costs nothing, for it is part of the word after it.
    """
    return "\n ".join(line.rstrip() for line in passage.splitlines() if line.strip())


def choose_demonstrations(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Return the records to show, chosen by hash, from each slice in turn.

    They come from the training split alone, and are then not learned from: an example that stands
    in its own prompt teaches copying.

    Raises:
        DataError: there are not enough records.
    """
    if len(records) <= count:
        raise DataError(
            f"the training split holds {len(records)} records and every prompt is to show {count}; "
            "expected more, so that some are left to learn from",
            "lower tokenization.demonstrations, or take more data in",
        )
    slices: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda item: text_sha256("shown", str(seed), item.id)):
        slices.setdefault(record.slice, []).append(record)
    in_turn = chain.from_iterable(zip_longest(*(slices[name] for name in sorted(slices))))
    return [record for record in in_turn if record is not None][:count]


def as_turns(records: Sequence[Record]) -> list[Message]:
    """Return the last question and answer of each record, as the turns of one chat."""
    return [turn for record in records for turn in record.messages[-2:]]
