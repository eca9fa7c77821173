"""Task summarize in tokenization: its prompt, limits that fit, and rows that are no summaries."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.prompting.files import PROMPT
from tasks.records.schema import Message, read_records, write_records
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import PromptingParams
from tasks.task_types.table import TrainedTask
from tests.builders.summarized import write_summarized
from tests.unit.conftest import Tiny
from tests.unit.tokenization.test_tokenization import tokenize

SUMMARIZE = {"name": "summarize"}


@pytest.fixture
def curated(tmp_path: Path, tiny: Tiny) -> Path:
    write_summarized(tmp_path / "curated", tiny.curated)
    return tmp_path / "curated"


@pytest.fixture(scope="module")
def roomy(prompting: PromptingParams) -> PromptingParams:
    return prompting.model_copy(update={"max_new_tokens": 64})


def with_summary(curated: Path, text: str, split: str = "train") -> Path:
    """The data with another first summary."""
    path = curated / f"{split}.jsonl"
    first, *others = read_records(path)
    turns = (*first.messages[:-1], Message("assistant", text))
    write_records(path, [replace(first, messages=turns), *others])
    write_manifest(curated)
    return curated


def test_the_prompt_asks_for_a_summary_and_the_task_lies_beside_it(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    paths = tokenize(tmp_path, tiny, roomy, curated, SUMMARIZE, max_tokens=1024)
    assert TrainedTask.read(paths.tokens / PROMPT) == TrainedTask("summarize")
    assert read_metrics(paths.tokenization_report)["template"] == "summarize.jinja"
    korean = roomy.model_copy(update={"language": "ko"})
    paths = tokenize(tmp_path / "ko", tiny, korean, curated, SUMMARIZE, max_tokens=1024)
    assert read_metrics(paths.tokenization_report)["template"] == "summarize.ko.jinja"


def test_limits_that_do_not_fit_are_told_at_once_with_values_that_do(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams, curated: Path
) -> None:
    tight = {"max_tokens": 32, "max_long_answer_share": 0.2}
    with pytest.raises(GateError, match=r"longer than tokenization\.max_tokens") as caught:
        tokenize(tmp_path, tiny, prompting, curated, SUMMARIZE, **tight)
    assert "summaries are longer than prompting.max_new_tokens (4)" in caught.value.message
    told = dict(re.findall(r"--set (\S+)=(\d+)", caught.value.remedy))
    assert set(told) == {"tokenization.max_tokens", "prompting.max_new_tokens"}
    fitting = prompting.model_copy(update={"max_new_tokens": int(told["prompting.max_new_tokens"])})
    enough = tight | {"max_tokens": int(told["tokenization.max_tokens"])}
    paths = tokenize(tmp_path / "again", tiny, fitting, curated, SUMMARIZE, **enough)
    assert (paths.tokens / "train.parquet").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_summary_is_refused_before_training(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path, split: str
) -> None:
    with pytest.raises(DataError, match=rf"1 records have an empty summary: \S+ \({split}\)"):
        tokenize(
            tmp_path, tiny, roomy, with_summary(curated, " ", split), SUMMARIZE, max_tokens=1024
        )


def test_a_summary_longer_than_its_text_is_told_by_its_id_and_learned(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    data = with_summary(curated, "much " * 60)
    first = read_records(data / "train.jsonl")[0].id
    paths = tokenize(tmp_path, tiny, roomy, data, SUMMARIZE, max_tokens=2048)
    found = read_metrics(paths.tokenization_report)["summaries"]
    assert found["longer_than_text_train"] == 1
    assert found["longer_than_text"] == [first]
    text = (paths.tokenization_report / "report.md").read_text()
    assert "more characters than their text: 1 of train" in text


def test_task_answer_counts_no_summaries(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    paths = tokenize(tmp_path, tiny, roomy, curated, max_tokens=1024)
    assert "summaries" not in read_metrics(paths.tokenization_report)
