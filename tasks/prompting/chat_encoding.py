"""Chats as token ids: those of the tokenizer's own `apply_chat_template` on the whole conversation.

A chat is rendered whole by the model's template and encoded whole, so that no tokenizer sees a
boundary that is not there. Text that spells a token of the template's own stays text. What stands
around an answer is found once a tokenizer, by rendering a conversation with and without one.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tasks.stage.errors import ConfigError, DataError, shown_text

# Stands between the letters of what a text spells; nobody can know it beforehand.
_GUARD = f"\ue000{secrets.token_hex(8)}\ue001"
# Takes the place of a token that the template wrote, while texts hold the same letters.
_TOKEN = f"\ue002{secrets.token_hex(8)}:{{}}\ue003"
# Stands for a turn's text where only what is around it matters.
_MARK = "\ue000{}\ue001"
_SHOWN = 40  # characters


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat, its text in the pieces that it was put together from."""

    role: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class AnswerFrame:
    """What a chat template puts around an answer.

    `prompt` is the end of what is asked, from its last token of the template's own on; `before` is
    the white space between prompt and answer; `after` ends the answer, with the token `end`.
    """

    prompt: str
    before: str
    after: str
    end: int


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Sequence[Turn]]
) -> list[list[int]]:
    """Return the token ids of each chat, with the generation prompt at its end.

    They are those of `apply_chat_template(tokenize=True)`, but that text which spells a token of
    the template's own is encoded as text.

    Raises:
        ConfigError: the chat template leaves out a turn, or changes it.
        DataError: it refuses a chat with such turns.
    """
    return _encoder(tokenizer).chats(chats)


def encode_answers(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each answer, as they follow a prompt, with what ends the turn.

    Outer white space is what the template leaves of it. Where the tokenizer would join an answer's
    beginning with the prompt's end, the ids are those that a model has to say after the prompt.

    Raises:
        ConfigError: the chat template does not tell where an answer begins or what ends it.
    """
    return _encoder(tokenizer).answers(answers)


def reshaped_answers(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[int]:
    """Return the places of answers that the chat template would take apart as an earlier turn.

    They spell a token of the template's own, as thoughts do, by which it leaves some of them out.
    Here such text stays text, so what is shown of them would not be what the template shows.
    """
    return _encoder(tokenizer).reshaped(answers)


def encode_beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of an answer's beginning, as they follow a prompt.

    Raises:
        ConfigError: the chat template does not tell where an answer begins.
    """
    return _encoder(tokenizer).beginning(text)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that the chat template puts after an answer.

    Raises:
        ConfigError: the chat template does not tell where an answer begins or what ends it.
    """
    return _encoder(tokenizer).frame.end


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text alone; text that spells a special token stays text."""
    if not texts:
        return []
    if not tokenizer.is_fast:
        ids: list[list[int]] = tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids
    return _encode(tokenizer.backend_tokenizer, texts, special_as_text=True)


def _encode(backend: Any, texts: Sequence[str], *, special_as_text: bool) -> list[list[int]]:
    kept, backend.encode_special_tokens = backend.encode_special_tokens, special_as_text
    backend.no_truncation()
    backend.no_padding()
    try:
        encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    finally:
        backend.encode_special_tokens = kept
    return [item.ids for item in encoded]


_ENCODERS: WeakKeyDictionary[PreTrainedTokenizerBase, "_ChatEncoder"] = WeakKeyDictionary()


def _encoder(tokenizer: PreTrainedTokenizerBase) -> "_ChatEncoder":
    """Return a tokenizer's encoder, made once for its chat template."""
    found = _ENCODERS.get(tokenizer)
    if found is None or found.template != tokenizer.chat_template:
        found = _ENCODERS[tokenizer] = _ChatEncoder(tokenizer)
    return found


class _ChatEncoder:
    """A tokenizer with its chat template, and what is known of both."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ConfigError(
                f"the base's tokenizer is a {type(tokenizer).__name__}, which has no "
                "tokenizer.json; expected one that the library `tokenizers` runs",
                "save the base with a fast tokenizer, or take another base",
            )
        self.template = tokenizer.chat_template
        # Not the tokenizer itself, which is to be forgotten with its encoder.
        self._backend: Any = tokenizer.backend_tokenizer
        self._variables = dict(tokenizer.special_tokens_map)
        self._known_roles: set[tuple[str, ...]] = set()

    def chats(self, chats: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """Return the token ids of each chat, with the generation prompt at its end."""
        for roles in {tuple(turn.role for turn in chat) for chat in chats} - self._known_roles:
            self._check_roles(roles)
            self._known_roles.add(roles)
        return self._ids([self._render(chat) for chat in chats])

    def answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer and of what ends it."""
        frame = self.frame
        spoken = [self._spoken(answer) for answer in answers]
        [given] = self._ids([frame.prompt])
        found = self._ids([f"{frame.prompt}{text}{frame.after}" for text in spoken])
        joined = [at for at, ids in enumerate(found) if ids[: len(given)] != given]
        said = [ids[len(given) :] for ids in found]
        for at in joined:
            text = spoken[at].replace(_GUARD, "")
            said[at] = [*_encode(self._backend, [text], special_as_text=True)[0], frame.end]
        return said

    def reshaped(self, answers: Sequence[str]) -> list[int]:
        """Return the places of answers that the template changes where they are no text to it."""
        asked = {"role": "user", "content": "x"}
        found = []
        for place, answer in enumerate(answers):
            if self._control.search(answer):
                said = {"role": "assistant", "content": answer}
                if answer.strip() not in self._rendered([asked, said, asked], asked=True):
                    found.append(place)
        return found

    def beginning(self, text: str) -> list[int]:
        """Return the token ids of an answer's first text."""
        begun = f"{self.frame.prompt}{self.frame.before}{self._guarded(text)}"
        given, found = self._ids([self.frame.prompt, begun])
        if found[: len(given)] != given:
            return _encode(self._backend, [text], special_as_text=True)[0]
        return found[len(given) :]

    def _spoken(self, answer: str) -> str:
        """Return what a model says for an answer, without what ends it."""
        if answer == answer.strip():
            return self.frame.before + self._guarded(answer)
        # Some templates trim: on both sides, on one, or line feeds alone.
        asked = Turn("user", ("x",))
        whole = self._render([asked, Turn("assistant", (answer,))], asked=False)
        said, ended, _ = whole[len(self._render([asked])) :].rpartition(self.frame.after)
        return said if ended else self.frame.before + self._guarded(answer)

    @cached_property
    def frame(self) -> AnswerFrame:
        """Return what the template puts around an answer."""
        asked, answer = Turn("user", (_MARK.format(0),)), Turn("assistant", (_MARK.format(1),))
        prompt = self._render([asked])
        whole = self._render([asked, answer], asked=False)
        if not whole.startswith(prompt):
            raise _unclear(
                f"the generation prompt ends in {_shown_end(prompt)}, and a conversation that "
                f"holds an answer has {_shown_end(whole.partition(_MARK.format(1))[0])} before it"
            )
        before, found, after = whole[len(prompt) :].partition(_MARK.format(1))
        if not found or before.strip():
            raise _unclear(f"between the generation prompt and an answer stands {before!r}")
        later = self._render([asked, answer, Turn("user", (_MARK.format(2),))])
        ending = self._ending(after) or self._ending(later.partition(_MARK.format(1))[2])
        if ending is None:
            raise ConfigError(
                f"the base's chat template ends an answer with {shown_text(after)}, which begins "
                "with no token of the tokenizer's own; a model could not learn to stop there",
                "write the end-of-sequence token behind the assistant's content in the template "
                "(chat_template.jinja), or take another base",
            )
        return AnswerFrame(self._tail(prompt), before, *ending)

    def _ending(self, text: str) -> tuple[str, int] | None:
        """Return what ends an answer, up to its token, and that token; None where nothing does."""
        found = self._added.search(text.partition("\ue000")[0])
        if found is None or text[: found.start()].strip():
            return None
        return text[: found.end()], int(self._backend.token_to_id(found.group()))

    def _tail(self, prompt: str) -> str:
        """Return the part of a prompt that can bear on how its answer is encoded."""
        whole = [found for found in self._added.finditer(prompt) if found.group() in self._isolated]
        start = whole[-1].start() if whole else prompt.index(_MARK.format(0))
        return prompt[start:].replace(_MARK.format(0), "x")

    @cached_property
    def _tokens(self) -> dict[str, Any]:
        """Return the tokens that are found before a text is cut, by what they spell."""
        return {token.content: token for token in self._backend.get_added_tokens_decoder().values()}

    @cached_property
    def _isolated(self) -> frozenset[str]:
        """Return those that are found in the text itself: they part what is before and after."""
        return frozenset(name for name, token in self._tokens.items() if not token.normalized)

    @cached_property
    def _added(self) -> re.Pattern[str]:
        return _any_of(self._tokens)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Return what finds the tokens that a text must not bring: special ones, and others that
        the template writes.
        """
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        written = self._rendered(turns[:1], asked=True) + self._rendered(turns, asked=False)
        return _any_of(
            [
                name
                for name, token in self._tokens.items()
                if (token.special or name in written) and name != self._unknown
            ]
        )

    @cached_property
    def _unknown(self) -> str | None:
        model: Any = self._backend.model
        return getattr(model, "unk_token", None)

    @cached_property
    def _blind(self) -> Any:
        """Return the tokenizer that reads its control tokens by other names, and no text as one."""
        core = json.loads(self._backend.to_str())
        core["post_processor"] = None
        vocabulary = core["model"]["vocab"]
        for token in core["added_tokens"]:
            name = token["content"]
            if self._control.fullmatch(name):
                token |= {"content": _TOKEN.format(token["id"]), "special": False}
                if isinstance(vocabulary, dict) and name in vocabulary:
                    vocabulary[token["content"]] = vocabulary.pop(name)
                elif isinstance(vocabulary, list) and token["id"] < len(vocabulary):
                    vocabulary[token["id"]][0] = token["content"]
        return Tokenizer.from_str(json.dumps(core))

    def _guarded(self, text: str) -> str:
        """Return a text in which no control token can be read."""
        return self._control.sub(lambda found: _GUARD.join(["", *found.group(), ""]), text)

    def _render(self, chat: Sequence[Turn], *, asked: bool = True) -> str:
        messages = [
            {"role": turn.role, "content": self._guarded("".join(turn.texts))} for turn in chat
        ]
        return self._rendered(messages, asked=asked)

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, asked: bool) -> str:
        """Return what `apply_chat_template` makes of messages, as text."""
        render: Any = render_jinja_template
        try:
            (text,), _ = render(
                conversations=[list(messages)],
                chat_template=self.template,
                add_generation_prompt=asked,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"the base's chat template refuses a chat with the roles {roles}: {error}",
                "let user and assistant take turns, the user first, after at most one system turn; "
                "`nightloom models check` shows what the template takes",
            ) from None
        return str(text)

    def _ids(self, rendered: Sequence[str]) -> list[list[int]]:
        """Return the token ids of rendered texts."""
        guarded = [at for at, text in enumerate(rendered) if _GUARD in text]
        plain = [at for at, text in enumerate(rendered) if _GUARD not in text]
        found = dict(zip(plain, self._whole([rendered[at] for at in plain]), strict=True))
        if guarded:
            texts = [self._renamed(rendered[at]) for at in guarded]
            found |= zip(guarded, _encode(self._blind, texts, special_as_text=True), strict=True)
        return [found[at] for at in range(len(rendered))]

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        return _encode(self._backend, texts, special_as_text=False)

    def _renamed(self, text: str) -> str:
        def name(token: re.Match[str]) -> str:
            return _TOKEN.format(self._backend.token_to_id(token.group()))

        return self._control.sub(name, text).replace(_GUARD, "")

    def _check_roles(self, roles: tuple[str, ...]) -> None:
        marks = [_MARK.format(number) for number in range(len(roles))]
        text = self._render([Turn(role, (mark,)) for role, mark in zip(roles, marks, strict=True)])
        for role, mark in zip(roles, marks, strict=True):
            if mark not in text:
                raise ConfigError(
                    f"the chat template leaves out or changes the {role} turn of a chat with the "
                    f"roles {', '.join(roles)}",
                    "use a base whose chat template renders system, user and assistant turns",
                )


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Return what finds the first of some texts, the longest where several begin together."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _shown_end(text: str) -> str:
    return repr(text[-_SHOWN:])


def _unclear(found: str) -> ConfigError:
    return ConfigError(
        f"the base's chat template does not say where an answer begins: {found}; expected the same "
        "text, or what is learned would not be what is asked for",
        "give the argument that makes them the same, such as `enable_thinking: false`, under "
        "models.base.template.arguments, or take a base that answers without reasoning first",
    )
