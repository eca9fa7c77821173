"""A tokenizer's chats compared with those of its own method, on a few conversations."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.prompting.chat_encoding import Turn, encode_answers, encode_chats
from tasks.stage.errors import ConfigError, DataError

_ANSWERS = ("Yes.", "a", "하늘", "7", "(b)", '"c"', "- d\n- e", "I don't know.")
_ASKED = "[1] One.\n[2] 둘.\nQuestion: What is 12 + 30?\n\n  x = {}"


def check_conversations(tokenizer: PreTrainedTokenizerBase) -> str:
    """Check that prompts and answers have the ids of the whole conversation, turn by turn.

    Raises:
        ConfigError: they have not, or the template refuses a chat.
    """
    turns = [("system", "Answer in few words."), ("user", _ASKED)]
    chats = []
    for answer in _ANSWERS:
        chats.append([*turns, ("assistant", answer)])
        if len(chats) == 2:
            turns = [*chats[0], ("user", "And why?")]
    try:
        prompts = encode_chats(tokenizer, [_turns(chat[:-1]) for chat in chats])
        answers = encode_answers(tokenizer, [chat[-1][1] for chat in chats])
    except DataError as error:
        raise ConfigError(error.message, "take another base, or mend its chat template") from None
    for chat, prompt, learned in zip(chats, prompts, answers, strict=True):
        asked, whole = (_own(tokenizer, chat[:end], end == -1) for end in (-1, len(chat)))
        if prompt != asked or whole[: len(prompt) + len(learned)] != prompt + learned:
            raise ConfigError(
                f"the tokenizer makes of a conversation that ends in {chat[-1][1]!r} other tokens "
                f"than of its prompt and its answer ({len(whole)}, and {len(prompt)} with "
                f"{len(learned)}); what is learned would not be what is asked for",
                "end the generation prompt in the chat template with a token, or without the space "
                "that the tokenizer joins to the next word",
            )
    return f"{len(chats)} conversations have the ids of the tokenizer's own method"


def _turns(chat: list[tuple[str, str]]) -> list[Turn]:
    return [Turn(role, (text,)) for role, text in chat]


def _own(tokenizer: PreTrainedTokenizerBase, chat: list[tuple[str, str]], asked: bool) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in chat]
    ids: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=asked, return_dict=False
    )
    return list(ids)
