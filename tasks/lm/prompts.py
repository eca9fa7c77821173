"""The one way a question becomes a prompt, in training, evaluation and serving."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.records.hashing import text_sha256
from tasks.records.record import Message
from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja template with two parts, `system` and `user`, known by the hash of its text."""

    template: Template
    digest: str

    @classmethod
    def load(cls, path: Path) -> "PromptTemplate":
        """The template in a file; it runs in a sandbox and reaches nothing but its variables.

        Raises:
            ConfigError: the file is missing or is not a template.
        """
        try:
            text = path.read_text(encoding="utf-8")
            environment = ImmutableSandboxedEnvironment(
                undefined=StrictUndefined, trim_blocks=True, autoescape=False
            )
            return cls(environment.from_string(text), text_sha256(text))
        except (OSError, TemplateError) as error:
            raise ConfigError(
                f"the prompt template {path} cannot be used: {error}",
                "mend it, or name another in params/prompting.yaml",
            ) from None

    def messages(self, turns: Sequence[Message], passages: Sequence[str]) -> list[dict[str, str]]:
        """The chat that asks the last of `turns`, with the passages above the question.

        A system turn of the record's own takes the place of the template's.

        Raises:
            ConfigError: the template reaches for what it may not have.
        """
        *history, question = turns
        if not history or history[0].role != "system":
            history = [
                Message("system", self._render("system", question.content, passages)),
                *history,
            ]
        asked = Message("user", self._render("user", question.content, passages))
        return [{"role": turn.role, "content": turn.content} for turn in [*history, asked]]

    def token_ids(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        turns: Sequence[Message],
        passages: Sequence[str],
    ) -> list[int]:
        """The prompt's token ids, ending where the answer begins.

        Text that spells one of the tokenizer's special tokens stays text: only the chat template's
        own markers become special tokens, so that no passage can forge a turn.
        """
        return encode_chat(tokenizer, self.messages(turns, passages))

    def _render(self, part: str, question: str, passages: Sequence[str]) -> str:
        try:
            return self.template.render(part=part, question=question, passages=passages).strip()
        except TemplateError as error:
            raise ConfigError(
                f"the prompt template failed: {error}; it may use part, question and passages",
                "mend the template named in params/prompting.yaml",
            ) from None


def encode_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[dict[str, str]]
) -> list[int]:
    """The token ids of a chat, with the generation prompt at its end.

    Each content is first replaced by a mark that no special token can hold; the template is
    rendered around the marks, and contents are encoded with special tokens switched off.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    shell = [message | {"content": mark} for message, mark in zip(messages, marks, strict=True)]
    rendered = tokenizer.apply_chat_template(shell, tokenize=False, add_generation_prompt=True)
    rest = str(rendered)
    ids: list[int] = []
    for message, mark in zip(messages, marks, strict=True):
        before, found, rest = rest.partition(mark)
        if not found:
            raise ConfigError(
                f"the chat template leaves out the {message['role']} turn",
                "use a base whose chat template renders system, user and assistant turns",
            )
        ids += _encode_shell(tokenizer, before)
        ids += tokenizer(
            message["content"], add_special_tokens=False, split_special_tokens=True
        ).input_ids
    return ids + _encode_shell(tokenizer, rest)


def _encode_shell(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def encode_answer(tokenizer: "PreTrainedTokenizerBase", answer: str) -> list[int]:
    """The answer's token ids with the end-of-turn token, which is learned as well."""
    ids: list[int] = tokenizer(
        answer, add_special_tokens=False, split_special_tokens=True
    ).input_ids
    return [*ids, tokenizer.eos_token_id]
