"""Task tools in tokenization: its prompt, what is learned, and what would teach bad calls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.prompting.files import PROMPT
from tasks.records.schema import Message, Record, read_records, write_records
from tasks.records.tool_text import read_said
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import PromptingParams
from tasks.task_types.table import TrainedTask
from tests.builders.tool_calls import write_calling
from tests.unit.conftest import Tiny
from tests.unit.tokenization.test_tokenization import tokenize, tokenizer, train

__all__ = ["tokenizer"]
TOOLS = {"name": "tools"}


@pytest.fixture
def curated(tmp_path: Path, tiny: Tiny) -> Path:
    write_calling(tmp_path / "curated", tiny.curated)
    return tmp_path / "curated"


@pytest.fixture(scope="module")
def roomy(prompting: PromptingParams) -> PromptingParams:
    return prompting.model_copy(update={"max_new_tokens": 128})


def with_answer(curated: Path, place: int, text: str, *, is_feedback: bool = False) -> Record:
    """The data with another answer of one training record, which is returned."""
    path = curated / "train.jsonl"
    records = read_records(path)
    turns = (*records[place].messages[:-1], Message("assistant", text))
    records[place] = replace(records[place], messages=turns, is_feedback=is_feedback)
    write_records(path, records)
    write_manifest(curated)
    return records[place]


def test_calls_are_learned_after_prompts_that_offer_them(
    tmp_path: Path,
    tiny: Tiny,
    roomy: PromptingParams,
    curated: Path,
    tokenizer: Any,
) -> None:
    paths = tokenize(tmp_path, tiny, roomy, curated, TOOLS, max_tokens=4096)
    assert TrainedTask.read(paths.tokens / PROMPT) == TrainedTask("tools")
    found = read_metrics(paths.tokenization_report)
    assert found["template"] == "tools.jinja"
    assert 0 < found["calls"]["calling_train"] < found["calls"]["offered_train"]
    assert "Records that call a tool" in (paths.tokenization_report / "report.md").read_text()
    records = {item.id: item for item in read_records(curated / "train.jsonl")}
    for name, example in train(paths).items():
        learned = tokenizer.decode(example.token_ids[example.prompt_length :])
        assert learned == records[name].answer + tokenizer.eos_token
        prompt = tokenizer.decode(example.token_ids[: example.prompt_length])
        assert '"name": "get_weather"' in prompt
        assert "Call a function" in prompt


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nget_weather(Seoul)\n</tool_call>",
        '<tool_call>\n{"name": "get_rain", "arguments": {}}\n</tool_call>',
    ],
)
def test_a_call_that_nobody_could_carry_out_stops_the_night_by_its_row(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path, text: str
) -> None:
    bad = with_answer(curated, 0, text)
    with pytest.raises(DataError, match=rf"1 records .* {bad.id} \(train\)"):
        tokenize(tmp_path, tiny, roomy, curated, TOOLS, max_tokens=4096)


def test_a_correction_whose_call_is_none_is_left_out_and_told(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    bad = with_answer(curated, 0, "<tool_call>weather</tool_call>", is_feedback=True)
    paths = tokenize(tmp_path, tiny, roomy, curated, TOOLS, max_tokens=4096)
    assert read_metrics(paths.tokenization_report)["calls"]["left_out"] == [bad.id]
    assert bad.id not in train(paths)


def test_data_that_calls_nothing_and_demonstrations_are_refused(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    with pytest.raises(DataError, match=r"none of \d+ training records calls a tool"):
        tokenize(tmp_path / "a", tiny, roomy, tiny.curated, TOOLS, max_tokens=4096)
    with pytest.raises(ConfigError, match="demonstrations is 2"):
        tokenize(
            tmp_path / "b", tiny, roomy, curated, TOOLS, max_tokens=4096, demonstrations=2
        )  # fmt: skip


def test_the_kinds_of_rows_are_all_there(curated: Path) -> None:
    records = read_records(curated / "train.jsonl")
    assert {len(read_said(item.answer).calls) for item in records} == {0, 1}
    assert {len(item.messages) for item in records} == {3, 5}
