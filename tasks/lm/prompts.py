"""The one way a question becomes a prompt, in training, evaluation and serving alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.lm.chats import encode_chats
from tasks.records.hashing import text_sha256
from tasks.records.record import Message
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What is asked: turns of which the last is the user's, and the passages shown with it."""

    turns: tuple[Message, ...]
    passages: tuple[str, ...]


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja template with two parts, `system` and `user`, and the examples shown before it.

    `demonstrations` are turns of the user and the assistant in turn (few-shot); none is zero-shot.
    """

    text: str
    demonstrations: tuple[Message, ...]
    template: Template

    @classmethod
    def load(cls, path: Path, demonstrations: Sequence[Message] = ()) -> "PromptTemplate":
        """The template in a file; it runs in a sandbox and reaches nothing but its variables.

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
                "mend it, or name another in params/prompting.yaml",
            ) from None

    @property
    def digest(self) -> str:
        """The version of the template: a hash of its text and its demonstrations."""
        turns = (f"{turn.role}\n{turn.content}" for turn in self.demonstrations)
        return text_sha256(self.text, *turns)

    def messages(self, prompt: Prompt) -> list[Message]:
        """The chat that asks the last turn, with the passages above the question.

        A system turn of the prompt's own takes the place of the template's.

        Raises:
            ConfigError: the template reaches for what it may not have.
        """
        *history, question = prompt.turns
        asked = Message("user", self._render("user", question.content, prompt.passages))
        if history and history[0].role == "system":
            return [history[0], *self._shown(), *history[1:], asked]
        system = Message("system", self._render("system", question.content, prompt.passages))
        return [system, *self._shown(), *history, asked]

    def token_ids(
        self, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt]
    ) -> list[list[int]]:
        """The token ids of each prompt, ending where the answer begins.

        Text that spells one of the tokenizer's special tokens stays text: only the chat template's
        own markers become special tokens, so that no passage can forge a turn.
        """
        return encode_chats(tokenizer, [self.messages(prompt) for prompt in prompts])

    def _shown(self) -> list[Message]:
        """The demonstrations, their questions worded as the template words questions."""
        return [
            Message("user", self._render("user", turn.content, ())) if turn.role == "user" else turn
            for turn in self.demonstrations
        ]

    def _render(self, part: str, question: str, passages: Sequence[str]) -> str:
        try:
            return self.template.render(part=part, question=question, passages=passages).strip()
        except (TemplateError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"the prompt template failed: {error}; it may use part, question and passages",
                "mend the template named in params/prompting.yaml",
            ) from None
