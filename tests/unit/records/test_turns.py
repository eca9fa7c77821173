"""A row's turns: system, history and weights are read; what would be learned wrongly is refused by
name; what nobody reads is named."""

from typing import Any

import pytest

from tasks.records.messages import MisshapenError
from tasks.records.schema import Message
from tasks.records.turns import Turns, UnlearnedError, asked_turns, read_turns, shown_counts

ASK = {"question": "When?", "answer": "At noon."}
USER, ASSISTANT = {"role": "user", "content": "When?"}, {"role": "assistant", "content": "Noon."}


def _turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in read_turns(row).messages]


@pytest.mark.parametrize(
    "row",
    [
        ASK,
        {"prompt": "When?", "completion": "At noon."},
        {"prompt": [USER], "completion": [ASSISTANT | {"content": "At noon."}]},
        {"prompt": "When?", "completion": ASSISTANT | {"content": "At noon."}},
        {"prompt": "When?", "completion": [USER, ASSISTANT | {"content": "At noon."}]},
        {"messages": [USER, ASSISTANT | {"content": "At noon."}]},
        {"messages": [USER, ASSISTANT | {"content": [{"type": "text", "text": "At noon."}]}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("system", [None, "", "Be brief.", "짧게."])
@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_system_and_history_become_turns_in_every_shape(
    row: dict[str, Any], column: str, system: str | None
) -> None:
    told = [("user", "When?"), ("assistant", "At noon.")]
    first = [("system", system)] if system else []
    assert _turns(row | {column: system}) == first + told

    for history in (
        [["Who?", "Min."], ["Where?", "Here."]],
        [{"role": role, "content": said} for role, said in _pairs()],
    ):
        assert _turns(row | {column: system, "history": history}) == first + _pairs() + told
    for nothing in (None, [], ""):
        assert _turns(row | {"history": nothing}) == told


def _pairs() -> list[tuple[str, str]]:
    return [
        ("user", "Who?"),
        ("assistant", "Min."),
        ("user", "Where?"),
        ("assistant", "Here."),
    ]


def test_history_stands_behind_the_system_turn_of_the_messages() -> None:
    row = {
        "messages": [{"role": "system", "content": "S"}, USER, ASSISTANT],
        "history": [["a", "b"]],
    }
    assert [role for role, _ in _turns(row)] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("roles", [("system", "system"), ("developer", "system"), ("developer",)])
def test_system_turns_at_the_beginning_are_one(roles: tuple[str, ...]) -> None:
    turns = [{"role": role, "content": f"Be {n}."} for n, role in enumerate(roles)]
    text = "\n\n".join(turn["content"] for turn in turns)

    assert _turns({"messages": [*turns, USER, ASSISTANT]})[0] == ("system", text)
    assert _turns({"messages": [*turns, USER, ASSISTANT], "system": text})[0][0] == "system"
    same = {"messages": [{"role": "system", "content": "S"}, USER, ASSISTANT], "system": "S"}
    assert _turns(same)[0] == ("system", "S")


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": 0}])
def test_an_answer_of_weight_zero_is_never_the_last(mark: dict[str, Any]) -> None:
    unlearned = ASSISTANT | mark
    conversation = [USER, ASSISTANT, USER, unlearned]

    assert _turns({"messages": conversation}) == _turns({"messages": conversation[:2]})
    middle = [USER, unlearned, USER, ASSISTANT | {"weight": 1}]
    assert len(_turns({"messages": middle})) == 4
    assert read_turns({"messages": middle}).unread == ()
    with pytest.raises(UnlearnedError, match="every answer has weight 0"):
        read_turns({"messages": [USER, unlearned]})
    with pytest.raises(UnlearnedError, match="every answer has weight 0"):
        read_turns({"prompt": "When?", "completion": [unlearned]})


@pytest.mark.parametrize("label", [False, "false", "False", " FALSE "])
@pytest.mark.parametrize("row", [ASK, {"prompt": "a", "completion": "b"}])
def test_a_completion_labelled_false_is_never_learned(row: dict[str, Any], label: Any) -> None:
    with pytest.raises(UnlearnedError, match="label is false"):
        read_turns(row | {"label": label})
    assert read_turns(row | {"label": True}).unread == ()
    assert len(_turns(row | {"label": "True"})) == 2
    with pytest.raises(UnlearnedError, match="weight is 0"):
        read_turns(row | {"weight": 0})


def test_a_label_that_is_a_class_is_no_verdict() -> None:
    assert read_turns(ASK | {"label": 0}).unread == ("label",)
    assert read_turns({"prompt": "a", "completion": "b", "label": 2}).unread == ("label",)
    with pytest.raises(MisshapenError, match="label is 0 beside a completion"):
        read_turns({"prompt": "a", "completion": "b", "label": 0})


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "`chosen: completion` under `columns`"),
        ({"question": "a", "chosen": "b", "rejected": "c"}, "`chosen: answer` under `columns`"),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER]}, "chosen is a column of preferences"),
        ({"prompt": "a", "rejected": "c"}, "rejected is there and completion is not"),
        ({"question": "a", "rejected": "c"}, "rejected is there and answer is not"),
        (ASK | {"tools": [{"type": "function"}]}, "e.g. `tools: other_tools`"),
        (ASK | {"functions": "[{}]"}, "functions offers tools"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": [CALL]}]}, r"calls a tool \(tool_calls\)"),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
            "tool",
        ),
        ({"messages": [USER, ASSISTANT | {"function_call": {"name": "f"}}]}, "function_call"),
        ({"messages": [USER, {"role": "tool", "content": "21"}, ASSISTANT]}, "has the role tool"),
        ({"messages": [USER, {"role": "function", "content": "2"}, ASSISTANT]}, "role function"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "a content, both text"),
        (
            {
                "messages": [
                    USER | {"content": [{"type": "image_url", "image_url": "x"}]},
                    ASSISTANT,
                ]
            },
            "content part of type 'image_url'",
        ),
        (ASK | {"history": "a\nb"}, "history is str"),
        (ASK | {"history": [["a", "b", "c"]]}, "history holds list"),
        (ASK | {"history": [{"user": "a"}]}, "e.g. `history: other_history`"),
        (ASK | {"system": 7}, r"system is int 7; .*`as_text: \[system\]` under `columns`"),
        ({"question": "a", "answer": 1}, r"answer is int 1; .*`as_text: \[answer\]`"),
        ({"question": "a", "answer": True}, r"as_text: \[answer\]"),
        ({"question": "a", "answer": ["b"]}, "answer holds str 'b'"),
        ({"text": "a"}, "columns are text"),
    ],
    ids=str,
)
def test_what_would_be_learned_wrongly_is_refused_by_name(row: dict[str, Any], said: str) -> None:
    with pytest.raises(MisshapenError, match=said):
        read_turns(row)


@pytest.mark.parametrize(
    "rejected",
    [
        " Now. ",
        ASSISTANT | {"content": "Now."},
        [ASSISTANT | {"content": "Now."}],
        [{"role": "system", "content": "Be brief."}, USER, ASSISTANT | {"content": "Now."}],
    ],
    ids=["text", "message", "answer", "conversation"],
)
def test_a_rejected_answer_is_a_text_or_what_a_conversation_ends_with(rejected: object) -> None:
    assert read_turns({"messages": [USER, ASSISTANT], "rejected_answer": rejected}) == Turns(
        (Message(**USER), Message(**ASSISTANT)), (), "Now."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rejected_answer": ASSISTANT["content"]}, "is the answer itself"),
        ({"rejected_answer": [USER]}, "ends with a turn of user"),
        (
            {"rejected_answer": [USER | {"content": "Who?"}, ASSISTANT | {"content": "Now."}]},
            "answers other turns",
        ),
        (
            {
                "messages": [USER, ASSISTANT, USER, ASSISTANT | {"weight": 0}],
                "rejected_answer": "Now.",
            },
            "answers other turns",
        ),
        ({"rejected_answer": 5}, "rejected_answer"),
    ],
    ids=str,
)
def test_a_rejected_answer_that_is_no_worse_one_of_the_same_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(MisshapenError, match=said):
        read_turns({"messages": [USER, ASSISTANT]} | changes)


@pytest.mark.parametrize("name", ["chosen", "rejected", "tools", "label", "history", "weight"])
def test_a_name_that_nobody_reads_leaves_a_column_out(name: str) -> None:
    assert read_turns(ASK | {f"other_{name}": [1]}).unread == (f"other_{name}",)


def test_columns_and_message_keys_that_nobody_reads_are_named_once() -> None:
    turns = [
        USER | {"name": "min", "tool_calls": None, "function_call": None},
        ASSISTANT | {"reasoning_content": "Clock.", "weight": 0.5, "name": "bot", "audio": {}},
    ]
    row = {"messages": turns, "id": "a", "slice": "s", "rejected": "x", "score": 0, "note": ""}
    row |= {"tools": "[]", "functions": []}

    assert read_turns(row).unread == (
        "rejected",
        "score",
        "messages.name",
        "messages.reasoning_content",
        "messages.weight",
    )


def test_counts_are_shown_on_one_line_with_the_most_frequent_first() -> None:
    assert shown_counts({"a": 1, "b": 3, "c": 1}) == "b (3 rows), a (1 rows), c (1 rows)"
    many = shown_counts({f"column {n}": 1 for n in range(25)})
    assert many.endswith("and 15 more")
    assert many.count("rows") == 10


def test_parts_of_a_content_are_lines_of_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]
    assert _turns({"messages": [USER | {"content": parts}, ASSISTANT]})[0] == ("user", "a\nb\nc")


@pytest.mark.parametrize(
    ("refused", "mended"),
    [
        (ASK | {"answer": 5}, ASK | {"answer": "5"}),
        (ASK | {"label": False}, ASK | {"label": True}),
        (ASK | {"weight": 0}, ASK),
        (ASK | {"tools": [{"name": "clock"}]}, ASK | {"other_tools": [{"name": "clock"}]}),
        (
            {"prompt": "When?", "chosen": "Noon.", "rejected": "Now."},
            {"prompt": "When?", "completion": "Noon.", "rejected": "Now."},
        ),
        (
            {"messages": [USER, ASSISTANT | {"weight": 0}]},
            {"messages": [USER, ASSISTANT | {"content": "At noon."}]},
        ),
        (
            {"messages": [USER, ASSISTANT | {"tool_calls": [{"id": "1"}]}], "system": "Be brief."},
            {"messages": [USER, ASSISTANT], "system": "Be brief."},
        ),
        (
            ASK | {"answer": True, "history": [["Who?", "Min."]]},
            ASK | {"answer": "yes", "history": [["Who?", "Min."]]},
        ),
    ],
    ids=str,
)
def test_a_row_that_is_refused_asks_what_it_asks_once_it_is_mended(
    refused: dict[str, Any], mended: dict[str, Any]
) -> None:
    with pytest.raises((MisshapenError, UnlearnedError)):
        read_turns(refused)
    asked = asked_turns(mended)
    assert asked_turns(refused) == asked
    assert asked == tuple(turn for turn in read_turns(mended).messages if turn.role != "assistant")


@pytest.mark.parametrize("row", [{"Frage": "When?"}, {"question": 5}, {"messages": "When?"}, {}])
def test_what_cannot_be_read_asks_nothing_that_is_known(row: dict[str, Any]) -> None:
    assert asked_turns(row) is None
