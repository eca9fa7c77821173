"""Bodies that clients of OpenAI's API send, as their own code made them; only names are ours.

Recorded before a server that notes what it is sent, with these versions from PyPI: openai 3.57.0,
langchain-openai 1.7.4 (langchain-core 1.8.3), litellm 1.110.2. Open WebUI's are those that
`generate_chat_completion` in backend/open_webui/routers/openai.py, the tasks in routers/tasks.py,
the messages of its page and `agenerate_openai_batch_embeddings` in retrieval/utils.py make of
them, read in open-webui 0.12.4.
"""

from typing import Any

_ASK: list[Any] = [{"role": "user", "content": "q"}]
_NAMED = {"model": "nightloom-adapter"}
_AGAIN = {"content": "q2", "role": "user"}
_SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "schema": {
            "properties": {"a": {"title": "A", "type": "integer"}},
            "required": ["a"],
            "title": "A",
            "type": "object",
            "additionalProperties": False,
        },
        "name": "A",
        "strict": True,
    },
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "A",
        "description": "",
        "parameters": {
            "properties": {"a": {"type": "integer"}}, "required": ["a"], "type": "object",
        },
    },
}  # fmt: skip

# What is sent beside the model, and what the header of the answer names.
ANSWERED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "openai: create": ({"messages": _ASK}, []),
    "openai: create, stream": (
        {"stream": True, "messages": _ASK, "stream_options": {"include_usage": True}}, [],
    ),
    "openai: chat.completions.stream": ({"stream": True, "messages": _ASK}, []),
    "openai: message.model_dump() as history": (
        {
            "messages": [
                *_ASK,
                {
                    "content": "a", "refusal": None, "role": "assistant", "annotations": None,
                    "audio": None, "function_call": None, "tool_calls": None,
                },
                *_ASK,
            ]
        },
        [],
    ),
    "openai: message as history": (
        {"messages": [*_ASK, {"content": "a", "role": "assistant"}, *_ASK]}, [],
    ),
    "langchain: invoke": ({"stream": False, "messages": _ASK}, []),
    "langchain: system and assistant": (
        {
            "stream": False,
            "messages": [
                {"content": "s", "role": "system"}, {"content": "q", "role": "user"},
                {"content": "a", "role": "assistant"}, _AGAIN,
            ],
        },
        [],
    ),
    "langchain: stream": ({"stream": True, "messages": _ASK}, []),
    "langchain: everything at its default, temperature 0": (
        {
            "stream": False, "messages": _ASK, "frequency_penalty": 0.0, "logprobs": False,
            "max_completion_tokens": 5, "n": 1, "presence_penalty": 0.0, "seed": 3, "stop": ["x"],
            "temperature": 0.0, "top_p": 1.0,
        },
        [],
    ),
    "langchain: parts": (
        {
            "stream": False,
            "messages": [
                {
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    "role": "user",
                }
            ],
        },
        [],
    ),
    "langchain: a name": (
        {"stream": False, "messages": [{"content": "q", "name": "bob", "role": "user"}]},
        ["messages.name"],
    ),
    "langchain: as for a reasoning model": (
        {
            "stream": False,
            "messages": [{"content": "s", "role": "developer"}, {"content": "q", "role": "user"}],
            "temperature": 1.0,
        },
        ["temperature"],
    ),
    "litellm: completion": ({"messages": _ASK}, []),
    "litellm: many parameters": (
        {
            "messages": _ASK, "temperature": 0, "top_p": 1, "n": 1, "stop": ["x"], "max_tokens": 5,
            "presence_penalty": 0, "frequency_penalty": 0, "response_format": {"type": "text"},
            "seed": 1, "logprobs": False,
        },
        [],
    ),
    "litellm: stream": (
        {"messages": _ASK, "stream": True, "stream_options": {"include_usage": True}}, [],
    ),
    "litellm: no tools": ({"messages": _ASK, "tools": []}, []),
    "litellm: other servers' parameters": (
        {
            "messages": _ASK, "chat_template_kwargs": {"enable_thinking": False}, "top_k": 3,
            "repetition_penalty": 1.0,
        },
        ["chat_template_kwargs", "top_k", "repetition_penalty"],
    ),
    "open webui: a chat": (
        {
            "stream": True,
            "messages": [
                {"role": "system", "content": "s"},
                {"id": "1", "role": "user", "content": "q", "meta": None},
                {
                    "id": "2", "role": "assistant", "content": "a", "model": "nightloom-adapter",
                    "contextSummary": None,
                },
                {"id": "3", "role": "user", "content": "q2"},
            ],
            "stream_options": {"include_usage": True},
        },
        ["messages.id", "messages.model"],
    ),
    "open webui: advanced parameters": (
        {
            "stream": True, "messages": _ASK, "temperature": 0.0, "top_p": 1.0, "min_p": 0.0,
            "max_tokens": 128, "frequency_penalty": 0.0, "presence_penalty": 0.0, "seed": 42,
            "stop": ["\n\n"], "top_k": 40, "reasoning_effort": "low",
            "response_format": {"type": "text"},
        },
        ["min_p", "top_k", "reasoning_effort"],
    ),
    "open webui: a title": ({"stream": False, "messages": _ASK}, []),
    "open webui: a pipeline's user": (
        {
            "stream": False, "messages": _ASK,
            "user": {"name": "n", "id": "1", "email": "n@example.org", "role": "user"},
        },
        ["user"],
    ),
}  # fmt: skip

# What is sent beside the model, and which parameter the refusal names.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "openai: chat.completions.parse": (
        {"stream": False, "messages": _ASK, "response_format": _SCHEMA}, "response_format",
    ),
    "langchain: with_structured_output, json_mode": (
        {"stream": False, "messages": _ASK, "response_format": {"type": "json_object"}},
        "response_format",
    ),
    "langchain: with_structured_output, json_schema": (
        {"stream": False, "messages": _ASK, "response_format": _SCHEMA}, "response_format",
    ),
    "langchain: with_structured_output, function_calling": (
        {
            "stream": False, "messages": _ASK, "parallel_tool_calls": False,
            "tool_choice": {"type": "function", "function": {"name": "A"}}, "tools": [_TOOL],
        },
        "tools",
    ),
    "open webui: builtin tools": (
        {"stream": True, "messages": _ASK, "tools": [_TOOL]}, "tools",
    ),
    "open webui: an image": (
        {
            "stream": True,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "q"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    ],
                }
            ],
        },
        "messages.0.content",
    ),
}  # fmt: skip

EMBEDDED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "openai: a text": ({"input": "x", "encoding_format": "base64"}, []),
    "openai: texts as floats": ({"input": ["x", "y"], "encoding_format": "float"}, []),
    "langchain: embed_documents, check_embedding_ctx_length=False": (
        {"input": ["x", "y"], "encoding_format": "base64"}, [],
    ),
    "litellm: embedding": ({"input": ["x"]}, []),
    "litellm: embedding, more": (
        {"input": ["x"], "user": "u", "encoding_format": "float"}, ["user"],
    ),
    "open webui: documents": ({"input": ["x", "y"]}, []),
}  # fmt: skip


def body(content: dict[str, Any]) -> dict[str, Any]:
    """A body with the model's name, as clients put it first."""
    return _NAMED | content
