"""How a base's own chat template shows tools, beside the form that a night trains."""

import json

from transformers import PreTrainedTokenizerBase

from tasks.models.template_rendering import Chat, render_bounded
from tasks.records.tool_text import read_tools, with_tools

_NAME = "get_weather"
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "Tell the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
_SYSTEM, _USER = "Answer in few words.", ("user", "How is it outside?")


def tool_form(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return whether the template shows tools, and whether its form is that of a night.

    It is told, and refuses nothing: a night of task tools writes them into the turns.

    Raises:
        ConfigError: the template takes too much time or memory with tools.
    """
    template, variables = str(tokenizer.chat_template), dict(tokenizer.special_tokens_map)
    tools = read_tools(_TOOLS)
    offered = variables | {"tools": [json.loads(tool.line) for tool in tools]}
    [own] = render_bounded(template, offered, [Chat((("system", _SYSTEM), _USER))])
    if _NAME not in own.text:
        return "the template shows none: task tools writes them into the turns"
    system = ("system", with_tools(_SYSTEM, tools))
    [ours] = render_bounded(template, variables, [Chat((system, _USER))])
    if own.text == ours.text:
        return "the template shows them in the form of task tools"
    return "the template shows them in a form of its own; task tools writes them into the turns"
