"""Every family's chats become the ids of its own tokenizer; what is learned of them is exact."""

from datetime import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import Turn, encode_answers, encode_chats, end_of_turn
from tasks.stage.errors import ConfigError, DataError
from tests.builders.families import FAMILIES, OPENS_THINKING, Family
from tests.unit.prompting.conftest import Bind

EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
CHAT = (
    ("system", "Answer in few words."),
    ("user", 'What does it do?\n[1] "json.dumps" (a) 123'),
    ("assistant", "It's 12 하늘."),
    ("user", "Why is 하늘 blue?\n\n  Really"),
    ("assistant", "공기 때문에."),
    ("user", " def f(x):\n    return x "),
    ("assistant", '"quoted", 7%'),
)
ANSWERS = [
    "Yes",
    "no",
    "7",
    "하늘",
    "(a)",
    '"b"',
    "- c\n- d",
    "a\n\n\nb",
    "x" * 40,
    "I don't know.",
]


def turns(chat: tuple[tuple[str, str], ...]) -> list[Turn]:
    return [Turn(role, (text,)) for role, text in chat]


def own(tokenizer: Any, chat: tuple[tuple[str, str], ...], *, asked: bool) -> list[int]:
    """What the tokenizer's own method makes of a whole conversation."""
    messages = [{"role": role, "content": text} for role, text in chat]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=asked, return_dict=False
    )
    return ids


@EVERY
def test_a_conversation_has_the_ids_of_the_tokenizer_s_own_method_turn_by_turn(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    chats = [CHAT[start:end] for start in (0, 1) for end in (2, 4, 6)]
    found = encode_chats(tokenizer, [turns(chat) for chat in chats])
    assert found == [own(tokenizer, chat, asked=True) for chat in chats]


@EVERY
def test_a_prompt_and_its_answer_are_the_whole_up_to_the_end_of_the_turn(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    for start in (0, 1):
        for answer in (*ANSWERS, *(text for role, text in CHAT if role == "assistant")):
            chat = (*CHAT[start:4], ("assistant", answer))
            [prompt] = encode_chats(tokenizer, [turns(chat[:-1])])
            [learned] = encode_answers(tokenizer, [answer])
            whole = own(tokenizer, chat, asked=False)
            assert whole[: len(prompt)] == prompt
            assert whole[len(prompt) :][: len(learned)] == learned
            assert learned[-1] == tokenizer.convert_tokens_to_ids(family.end)
            rest = tokenizer.decode(whole[len(prompt) + len(learned) :])
            assert rest.strip() in ("", family.named_end)


@EVERY
def test_an_answer_is_read_back_as_it_was(family: Family, bound: Bind) -> None:
    tokenizer = bound(family)
    for answer, ids in zip(ANSWERS, encode_answers(tokenizer, ANSWERS), strict=True):
        assert tokenizer.decode(ids[:-1]).strip() == answer


@EVERY
def test_white_space_around_an_answer_is_what_the_template_leaves_of_it(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    for answer in ("  yes", "yes \n", "\n yes"):
        chat = (*CHAT[1:2], ("assistant", answer))
        [prompt] = encode_chats(tokenizer, [turns(chat[:-1])])
        [learned] = encode_answers(tokenizer, [answer])
        whole = own(tokenizer, chat, asked=False)
        if whole[: len(prompt)] == prompt:
            assert whole[len(prompt) :][: len(learned)] == learned
        assert learned[-1] == end_of_turn(tokenizer)
        assert tokenizer.decode(learned[:-1]).strip() == "yes"


@EVERY
def test_no_text_can_bring_a_token_of_the_template(family: Family, bound: Bind) -> None:
    tokenizer = bound(family)
    # Runs of SentencePiece's mark are read back as the spaces that they stand for.
    spelled = sorted(name for name in tokenizer.get_added_vocab() if name.strip("▁"))
    forged = "x" + "".join(f"{name}\n{name} y" for name in spelled) + "z"
    plain, attacked = (
        encode_chats(tokenizer, [turns((("system", text), ("user", text), ("assistant", text),
                                        ("user", text)))])[0]
        for text in ("x", forged)
    )  # fmt: skip
    [safe], [answer] = encode_answers(tokenizer, ["x"]), encode_answers(tokenizer, [forged])
    written = {*plain, *safe, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    for name in spelled:
        token = tokenizer.convert_tokens_to_ids(name)
        if token in written:
            assert attacked.count(token) == plain.count(token), name
            assert answer.count(token) == safe.count(token), name
    assert tokenizer.decode(attacked).count(forged[-5:]) >= 4


def test_a_forged_text_is_encoded_like_any_other_beside_it(bound: Bind) -> None:
    """The way of texts that spell a token is the usual way wherever both can be gone."""
    for family in FAMILIES.values():
        tokenizer = bound(family)
        harmless = [turns(CHAT[:4])]
        [usual] = encode_chats(tokenizer, harmless)
        first = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
        chat = [*CHAT[:3], ("user", f"{CHAT[3][1]} {first}")]
        [guarded] = encode_chats(tokenizer, [turns(tuple(chat))])
        shared = next(at for at, (one, two) in enumerate(zip(usual, guarded, strict=False))
                      if one != two)  # fmt: skip
        assert shared > len(encode_chats(tokenizer, [turns(CHAT[:2])])[0])


@EVERY
def test_an_answer_ends_where_the_template_ends_it(family: Family, bound: Bind) -> None:
    from tasks.generation.greedy_decoding import list_stops, stop_tokens

    tokenizer = bound(family)
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert end_of_turn(tokenizer) == end
    model = _Settings(tokenizer.eos_token_id)
    assert stop_tokens(LanguageModel(model, tokenizer, "")) == {end, tokenizer.eos_token_id}
    list_stops(model, tokenizer)  # type: ignore[arg-type]
    listed = model.generation_config.eos_token_id
    assert end in (listed if isinstance(listed, list) else [listed])


class _Settings:
    """As much of a model as its stops need."""

    def __init__(self, end: int) -> None:
        from transformers import GenerationConfig

        self.generation_config: Any = GenerationConfig(eos_token_id=end)


@pytest.mark.parametrize("name", [name for name, one in FAMILIES.items() if one.reads_clock])
def test_no_template_sees_the_real_clock(
    name: str, bound: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    tokenizer = bound(family)
    before = own(tokenizer, CHAT[1:2], asked=True)

    class _Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "_Later":
            return cls(2031, 5, 6)

    monkeypatch.setattr(chat_template_utils, "datetime", _Later)
    chat_template_utils._compile_jinja_template.cache_clear()
    assert own(tokenizer, CHAT[1:2], asked=True) == before
    assert encode_chats(tokenizer, [turns(CHAT[1:2])]) == [before]
    unbound = family.tokenizer()
    assert "2031" in str(unbound.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False
    ))  # fmt: skip
    monkeypatch.undo()
    chat_template_utils._compile_jinja_template.cache_clear()


def test_a_template_that_opens_a_thought_is_refused(bound: Bind) -> None:
    with pytest.raises(ConfigError, match="<think>") as caught:
        encode_answers(bound(OPENS_THINKING), ["yes"])
    assert "enable_thinking" in caught.value.remedy


def test_a_template_that_puts_a_thought_before_an_answer_is_refused() -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()  # its argument is not given
    with pytest.raises(ConfigError, match="does not say where an answer begins"):
        encode_answers(tokenizer, ["yes"])


def test_a_template_that_ends_an_answer_with_text_is_refused() -> None:
    tokenizer = FAMILIES["gpt2"].tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("eos_token", "'(end)'")
    with pytest.raises(ConfigError, match="no token of the tokenizer's own"):
        encode_answers(tokenizer, ["yes"])


@pytest.mark.parametrize("roles", [("assistant", "user"), ("user", "user")])
def test_turns_that_a_template_refuses_are_named(roles: tuple[str, str], bound: Bind) -> None:
    chat = [Turn(role, ("x",)) for role in roles]
    with pytest.raises(DataError, match=f"roles {', '.join(roles)}: Roles must take turns"):
        encode_chats(bound(FAMILIES["gemma2"]), [chat])
