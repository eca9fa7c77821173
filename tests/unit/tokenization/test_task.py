"""Task classify in tokenization: labels are chosen and checked before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.prompting.files import PROMPT
from tasks.records.schema import Message, read_records, write_records
from tasks.sequences.examples import read_examples
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import PromptingParams
from tasks.task_types.table import TASK_FILE, TrainedTask
from tasks.tokenization.__main__ import Paths
from tests.builders.labelled import LABELS, write_labelled
from tests.unit.conftest import Tiny
from tests.unit.tokenization.test_tokenization import tokenize

CLASSIFY = {"name": "classify"}


@pytest.fixture(scope="module")
def roomy(prompting: PromptingParams) -> PromptingParams:
    return prompting.model_copy(update={"max_new_tokens": 24})


@pytest.fixture
def curated(tmp_path: Path, tiny: Tiny) -> Path:
    write_labelled(tmp_path / "curated", tiny.curated, "dispute")
    return tmp_path / "curated"


def relabel(curated: Path, change: dict[str, str]) -> Path:
    """The data with training labels renamed."""
    path = curated / "train.jsonl"
    rows = [
        replace(row, messages=(row.messages[0],
                               Message("assistant", change.get(row.answer, row.answer))))
        for row in read_records(path)
    ]  # fmt: skip
    write_records(path, rows)
    write_manifest(curated)
    return curated


def learned(paths: Paths) -> list[tuple[int, ...]]:
    found = read_examples(paths.tokens / "train.parquet")
    return [one.token_ids[one.prompt_length :] for one in found]


def test_the_prompt_asks_for_a_label_and_the_set_lies_beside_it(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    paths = tokenize(tmp_path, tiny, roomy, curated, CLASSIFY)
    task = TrainedTask.read(paths.tokens / PROMPT)
    assert task == TrainedTask("classify", LABELS, constrained=True)
    found = read_metrics(paths.tokenization_report)
    assert found["template"] == "classify.jinja"
    assert found["labels"] == {
        "count": 4, "without_rows": [], "outside": {},
        "unlearned_validation": 0, "unlearned_test": 1,
    }  # fmt: skip
    assert "1 of test" in (paths.tokenization_report / "report.md").read_text()


def test_task_answer_writes_what_it_wrote_before(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    answers = tokenize(tmp_path / "a", tiny, roomy, curated)
    labels = tokenize(tmp_path / "b", tiny, roomy, curated, CLASSIFY)
    assert not (answers.tokens / PROMPT / TASK_FILE).exists()
    assert learned(answers) == learned(labels)  # the answer's own tokens, whatever the task


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"refund": "Card"}, r"labels differ .* alone: 'Card', 'card'"),
        ({"refund": "card  lost"}, r"'card  lost', 'card lost'"),
        (dict.fromkeys(LABELS, "card"), r"there is 1 label"),
        ({"refund": "  "}, r"one of the labels is empty"),
    ],
)
def test_what_is_no_set_of_labels_is_refused_before_training(
    tmp_path: Path,
    tiny: Tiny,
    roomy: PromptingParams,
    curated: Path,
    change: dict[str, str],
    told: str,
) -> None:
    with pytest.raises(DataError, match=told):
        tokenize(tmp_path, tiny, roomy, relabel(curated, change), CLASSIFY)
    assert not (tmp_path / "tokens").exists()


def test_a_training_row_whose_label_params_do_not_list_is_refused(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    task = CLASSIFY | {"classify": {"labels": list(LABELS[:3]), "constrained": True}}
    with pytest.raises(
        DataError, match=r"1 answers .* no label of task.classify.labels: '환불 요청'"
    ):
        tokenize(tmp_path, tiny, roomy, curated, task)


def test_a_label_longer_than_a_model_may_say_is_refused(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams, curated: Path
) -> None:
    with pytest.raises(ConfigError, match=r"the label '환불 요청' takes \d+ tokens") as caught:
        tokenize(tmp_path, tiny, prompting, curated, CLASSIFY)
    assert "--set prompting.max_new_tokens=" in caught.value.remedy


def test_labels_are_told_in_the_prompt_of_the_datas_language(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    korean = roomy.model_copy(update={"language": "ko"})
    paths = tokenize(tmp_path, tiny, korean, curated, CLASSIFY)
    assert read_metrics(paths.tokenization_report)["template"] == "classify.ko.jinja"


def test_a_correction_that_is_no_label_makes_none_and_is_left_out_by_name(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    rows = read_records(curated / "train.jsonl")
    slip = replace(rows[0], id="typed", is_feedback=True,
                   messages=(rows[0].messages[0], Message("assistant", "refnd")))  # fmt: skip
    write_records(curated / "train.jsonl", [*rows, slip])
    write_manifest(curated)
    paths = tokenize(tmp_path, tiny, roomy, curated, CLASSIFY)
    assert TrainedTask.read(paths.tokens / PROMPT).labels == LABELS
    assert "typed" not in {one.id for one in read_examples(paths.tokens / "train.parquet")}
    assert read_metrics(paths.tokenization_report)["labels"]["outside"] == {"typed": "refnd"}
    report = (paths.tokenization_report / "report.md").read_text()
    assert "1 corrections are no label and were left out" in report


def test_a_label_that_no_training_row_has_is_told_and_counted_as_not_learned(
    tmp_path: Path, tiny: Tiny, roomy: PromptingParams, curated: Path
) -> None:
    task = CLASSIFY | {"classify": {"labels": [*LABELS, "dispute"], "constrained": True}}
    found = read_metrics(tokenize(tmp_path, tiny, roomy, curated, task).tokenization_report)
    assert found["labels"]["without_rows"] == ["dispute"]
    assert found["labels"]["unlearned_test"] == 1
