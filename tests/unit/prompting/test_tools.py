"""Tools in prompts: every family's template shows them; one of the form itself does the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tasks.prompting.chat_encoding import encode_answers, encode_beginning
from tasks.prompting.templates import Prompt, PromptTemplate
from tasks.records.schema import Message
from tasks.records.tool_text import CALL, Call, read_said, read_tools, said_text
from tasks.records.turns import read_turns
from tests.builders.families import FAMILIES, Family
from tests.builders.family_templates import CHATML_TOOLS
from tests.builders.tool_calls import CLOCK, WEATHER, asking, call, calling, result
from tests.unit.prompting.conftest import Bind

TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>")
BOTH = (call("get_weather", "a", city="하늘"), call("get_time", "b", city='a "b" </tool_call>'))
ROW = {
    "id": "r",
    "tools": [WEATHER, CLOCK],
    "messages": [
        asking("하늘"), calling(*BOTH, content="I look."),
        result('{"degrees": 3}', "a"), result("noon", "b"),
        {"role": "assistant", "content": "3 degrees."}, asking("Lima", "time"),
        calling(call("get_time", "c", city="Lima")),
    ],
}  # fmt: skip


def template() -> PromptTemplate:
    return PromptTemplate.load(Path("params/prompts/tools.jinja"))


def turns() -> tuple[Message, ...]:
    return read_turns(ROW, reads_tools=True).messages


def as_transformers_takes(messages: list[Any]) -> list[Any]:
    """Arguments as objects, as chat templates expect them."""
    found = []
    for message in messages:
        calls = [
            one | {"function": one["function"] | {
                "arguments": json.loads(one["function"]["arguments"])}}
            for one in message.get("tool_calls", [])
        ]  # fmt: skip
        found.append(message | ({"tool_calls": calls} if calls else {}))
    return found


def test_a_template_that_shows_tools_in_this_form_has_the_same_ids() -> None:
    tokenizer = replace(FAMILIES["qwen2"], template=CHATML_TOOLS).tokenizer()
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    system, *_ = template().chats([Prompt(turns()[:-1], ())])[0]
    own = "".join(system.texts).partition("\n\n# Tools")[0]
    messages = as_transformers_takes([{"role": "system", "content": own}, *ROW["messages"]])
    tools = [json.loads(tool.line) for tool in read_tools(ROW["tools"])]

    def rendered(chat: list[Any], *, asked: bool) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            chat, tools=tools, tokenize=True, add_generation_prompt=asked, return_dict=False
        )
        return ids

    [prompt] = template().token_ids(tokenizer, [Prompt(turns()[:-1], ())])
    [answer] = encode_answers(tokenizer, [turns()[-1].content])
    assert prompt == rendered(messages[:-1], asked=True)
    whole = rendered(messages, asked=False)
    assert prompt + answer == whole[: len(prompt) + len(answer)]
    assert tokenizer.convert_tokens_to_ids("<tool_call>") in answer


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_family_shows_tools_calls_and_results_with_passages(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    [prompt] = template().token_ids(tokenizer, [Prompt(turns()[:-1], ("It is noon in Lima.",))])
    text = tokenizer.decode(prompt)
    for shown in ("get_weather", "I look.", "<tool_response>", "noon", "[1]", "time in Lima?"):
        assert shown in text
    [answer] = encode_answers(tokenizer, [turns()[-1].content])
    said = read_said(tokenizer.decode(answer, skip_special_tokens=True))
    assert said.calls == (Call("get_time", {"city": "Lima"}),)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_what_an_answer_begins_with_has_the_ids_that_it_is_learned_with(
    family: Family, bound: Bind
) -> None:
    tokenizer = bound(family)
    [whole] = encode_answers(tokenizer, [said_text("", [Call("get_time", {"city": "Lima"})])])
    begun = encode_beginning(tokenizer, f'{CALL}\n{{"name": "get_time", "arguments":')
    assert whole[: len(begun)] == begun


def test_the_prompts_own_system_turn_takes_the_place_of_the_templates() -> None:
    row = ROW | {"system": "Be kind."}
    turns = read_turns(row, reads_tools=True).messages
    [chat] = template().chats([Prompt(turns[:-1], ())])
    assert "".join(chat[0].texts).startswith("Be kind.\n\n# Tools")
    [chat] = template().chats([Prompt(turns[1:-1], ())])
    assert "".join(chat[0].texts).startswith("Call a function")
