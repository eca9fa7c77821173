"""Tokenization learns answers alone, counts what it leaves out, and shows train alone."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.models.loading import load_tokenizer
from tasks.models.manifest import ModelManifest
from tasks.prompting.prompt_bundle import read_prompt_bundle
from tasks.records.schema import (
    Message,
    Record,
    read_records,
    write_documents,
    write_records,
)
from tasks.sequences.examples import WEIGHTS_FILE, Example, read_examples, read_weights
from tasks.stage.errors import DataError, GateError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import folder_files, verified, write_manifest
from tasks.stage.params import PromptingParams, read_yaml
from tasks.tokenization.__main__ import Paths, run
from tasks.tokenization.params import Params
from tests.unit.conftest import Tiny

FIELD = Path(__file__).parents[4] / "shared/field"
needs_field = pytest.mark.skipif(
    not FIELD.exists(), reason=f"{FIELD} is missing: data that are no part of us"
)
LONG = " ".join(["word"] * 600)


def tokenize(
    root: Path,
    tiny: Tiny,
    prompting: PromptingParams,
    curated: Path,
    task: dict[str, object] | None = None,
    **changes: object,
) -> Paths:
    # The tiny models may say four tokens alone.
    own = {"max_long_answer_share": 1.0} | changes
    settings = read_yaml(Path("params/tokenization.yaml")) | own
    weights = root / "source_weights.json"
    if not weights.exists():
        root.mkdir(parents=True, exist_ok=True)
        weights.write_text("{}\n")
    paths = Paths(
        curated=curated,
        source_weights=weights,
        base=tiny.base,
        embedder=tiny.embedder,
        model_store=tiny.store,
        scratch=root / "scratch",
        tokens=root / "tokens",
        tokenization_report=root / "report",
    )
    given = {"task": read_yaml(Path("params/task.yaml")) | (task or {}), "tokenization": settings}
    run(Params.model_validate(given | {"prompting": prompting}), paths)
    return paths


@pytest.fixture(scope="module")
def tokenizer(tiny: Tiny) -> Any:
    return load_tokenizer(ModelManifest.read(tiny.base).folder(tiny.store))


def with_answers(tiny: Tiny, root: Path, answers: dict[str, str]) -> Path:
    """The tiny data with some training answers changed."""
    folder = root / "curated"
    shutil.copytree(tiny.curated, folder)
    path = folder / "train.jsonl"
    write_records(path, [_answered(item, answers) for item in read_records(path)])
    write_manifest(folder)
    return folder


def _answered(record: Record, answers: dict[str, str]) -> Record:
    answer = Message("assistant", answers.get(record.id, record.answer))
    return replace(record, messages=(*record.messages[:-1], answer))


def train(paths: Paths) -> dict[str, Example]:
    return {item.id: item for item in read_examples(paths.tokens / "train.parquet")}


def test_only_the_answer_and_its_end_of_turn_are_learned(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams, tokenizer: Any
) -> None:
    paths = tokenize(tmp_path, tiny, prompting, tiny.curated)
    records = {item.id: item for item in read_records(tiny.curated / "train.jsonl")}
    examples = train(paths)
    assert examples.keys() == records.keys()
    for name, example in examples.items():
        learned = tokenizer.decode(example.token_ids[example.prompt_length :])
        assert learned == records[name].answer + tokenizer.eos_token
        prompt = tokenizer.decode(example.token_ids[: example.prompt_length])
        assert prompt.endswith("<|im_start|>assistant\n")
        assert records[name].question in prompt


def test_what_cannot_be_learned_from_is_left_out_and_counted(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    curated = with_answers(tiny, tmp_path, {"r1": "", "r2": LONG})
    paths = tokenize(tmp_path, tiny, prompting, curated, unusable="drop")
    assert not {"r1", "r2"} & train(paths).keys()
    counts = read_metrics(paths.tokenization_report)["train"]
    assert (counts["too_long"], counts["empty_answer"]) == (1, 1)
    assert counts["left_out"] == {"too_long": ["r2"], "empty_answer": ["r1"]}
    assert "| train | 10 | 1 | 1 |" in (paths.tokenization_report / "report.md").read_text()


def test_what_cannot_be_learned_from_stops_the_night_where_params_say_so(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    curated = with_answers(tiny, tmp_path, {"r1": "", "r2": LONG})
    with pytest.raises(DataError, match=r"2 of 12 examples .* r2 \(too_long\), r1 \(empty"):
        tokenize(tmp_path, tiny, prompting, curated, unusable="stop")
    assert not (tmp_path / "tokens").exists()


def asking_long(tiny: Tiny, root: Path, words: int) -> Path:
    """The tiny data with questions that are longer and longer, by so many words."""
    folder = root / "curated"
    shutil.copytree(tiny.curated, folder)
    for split in ("train", "validation", "test"):
        path = folder / f"{split}.jsonl"
        rows = [
            replace(item, messages=(Message("user", f"{item.question} {'well ' * words * place}"),
                                    item.messages[-1]))
            for place, item in enumerate(read_records(path))
        ]  # fmt: skip
        write_records(path, rows)
    write_manifest(folder)
    return folder


def test_too_many_examples_too_long_refuse_the_night_and_each_remedy_mends_it(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    curated = asking_long(tiny, tmp_path, 40)
    with pytest.raises(GateError, match=r"^\d+ of 36 examples cannot be .* longer than") as caught:
        tokenize(tmp_path, tiny, prompting, curated, max_tokens=300)
    examples = [line for line in caught.value.message.splitlines() if line.startswith("  r")]
    assert len(examples) == 3
    assert all("tokens) 'What does" in line for line in examples)
    assert not (tmp_path / "tokens").exists()
    assert "| train |" in (tmp_path / "scratch/report.md").read_text(encoding="utf-8")
    assert "prompting.passage_tokens (64) or prompting.passages (2)" in caught.value.remedy

    settings = dict(re.findall(r"--set tokenization\.(\w+)=([\d.]+)", caught.value.remedy))
    assert settings.keys() == {"max_tokens", "max_unusable_share"}
    more = tokenize(tmp_path, tiny, prompting, curated, max_tokens=int(settings["max_tokens"]))
    assert read_metrics(more.tokenization_report)["train"]["too_long"] == 0
    let = {"max_tokens": 300, "max_unusable_share": float(settings["max_unusable_share"])}
    if let["max_unusable_share"] < 1:
        less = tokenize(tmp_path, tiny, prompting, curated, **let)
        assert read_metrics(less.tokenization_report)["train"]["too_long"] > 0
    assert not (tmp_path / "scratch/report.md").exists()


def test_an_example_that_is_too_long_shows_fewer_passages_and_the_gold_one_last(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams, tokenizer: Any
) -> None:
    curated = asking_long(tiny, tmp_path, 3)
    whole = train(tokenize(tmp_path / "all", tiny, prompting, curated, max_tokens=512))
    longest = {name: len(example.token_ids) for name, example in whole.items()}
    paths = tokenize(tmp_path, tiny, prompting, curated, max_tokens=max(longest.values()) - 20)
    counts = read_metrics(paths.tokenization_report)["train"]
    assert counts["too_long"] == 0
    assert counts["shortened"] >= 1
    records = {item.id: item for item in read_records(curated / "train.jsonl")}
    for name, example in train(paths).items():
        if example.token_ids == whole[name].token_ids:
            assert example.context == whole[name].context
            continue
        assert example.context == f"{whole[name].context} without {example.context[-1]}"
        prompt = tokenizer.decode(example.token_ids[: example.prompt_length])
        assert ("[1]" in prompt, "[2]" in prompt) == (True, False)
        assert all(f"[1] {gold}" in prompt for gold in records[name].documents)


def test_answers_that_no_model_may_say_refuse_the_night_and_each_remedy_mends_it(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    longer = {f"r{number}": "and then it goes on for a while " * 3 for number in range(9)}
    curated = with_answers(tiny, tmp_path, longer)
    least = prompting.model_copy(update={"max_new_tokens": 16})
    with pytest.raises(GateError, match=r"^9 of 36 answers \(25\.0%\) are longer than") as caught:
        tokenize(tmp_path, tiny, least, curated, max_long_answer_share=0.2)
    assert "expected at most 20.0% (tokenization.max_long_answer_share)" in caught.value.message
    assert len(re.findall(r"^  r\d+ \(train, long answer, \d+ tokens", caught.value.message, re.M))
    found = re.search(r"`--set prompting\.max_new_tokens=(\d+)`", caught.value.remedy)
    assert found is not None
    more = least.model_copy(update={"max_new_tokens": int(found[1])})
    paths = tokenize(tmp_path, tiny, more, curated, max_long_answer_share=0.2)
    assert read_metrics(paths.tokenization_report)["train"]["long_answers"] == 0
    paths = tokenize(tmp_path, tiny, least, curated, max_long_answer_share=0.25)
    assert read_metrics(paths.tokenization_report)["train"]["long_answers"] == 9


@needs_field
def test_essays_are_told_before_anything_is_trained(tmp_path: Path, tiny: Tiny) -> None:
    own = PromptingParams.model_validate(read_yaml(Path("params/prompting.yaml")))
    folder = tmp_path / "curated"
    folder.mkdir()
    rows = [json.loads(line) for line in (FIELD / "essays.jsonl").read_text("utf-8").splitlines()]
    for place, split in enumerate(("train", "validation", "test")):
        turns = [(Message("user", row["question"]), Message("assistant", row["answer"]))
                 for row in rows[place::3]]  # fmt: skip
        made = [
            Record(f"e{at}", both, (), "s", f"e{at}", "", "", "1") for at, both in enumerate(turns)
        ]
        write_records(folder / f"{split}.jsonl", made)
    write_documents(folder / "documents.jsonl", [])
    write_manifest(folder)
    with pytest.raises(GateError, match=r"answers .* are longer than prompting\.max_new_tokens"):
        tokenize(tmp_path, tiny, own, folder, max_tokens=4096, max_long_answer_share=0.2)


def test_answers_that_are_empty_refuse_the_night_too(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    curated = with_answers(tiny, tmp_path, {f"r{number}": "" for number in range(11)})
    with pytest.raises(GateError, match=r"^11 of 36 .* 11 have an empty answer") as caught:
        tokenize(tmp_path, tiny, prompting, curated)
    assert "columns in params/ingestion.yaml" in caught.value.remedy


def test_a_training_split_that_cannot_be_used_at_all_is_an_error(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    with pytest.raises(DataError, match="none of 12 training examples"):
        tokenize(tmp_path, tiny, prompting, tiny.curated, max_tokens=16)


def test_demonstrations_come_from_train_and_are_not_learned_from(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams, tokenizer: Any
) -> None:
    curated = with_answers(tiny, tmp_path, {f"r{number}": f"a{number}" for number in range(12)})
    paths = tokenize(tmp_path, tiny, prompting, curated, demonstrations=2)
    shown = read_metrics(paths.tokenization_report)["demonstrations"]
    examples = train(paths)
    assert len(shown) == 2
    assert not set(shown) & examples.keys()
    slices = {item.id: item.slice for item in read_records(curated / "train.jsonl")}
    assert {slices[name] for name in shown} == {"purpose", "unanswerable"}
    for example in examples.values():
        prompt = tokenizer.decode(example.token_ids[: example.prompt_length])
        assert all(f"a{name.removeprefix('r')}<|im_end|>" in prompt for name in shown)
    template = read_prompt_bundle(verified(paths.tokens) / "prompt", tokenizer)
    assert len(template.demonstrations) == 4


def test_more_demonstrations_than_records_are_refused(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    with pytest.raises(DataError, match="holds 12 records and every prompt is to show 12"):
        tokenize(tmp_path, tiny, prompting, tiny.curated, demonstrations=12)


def test_the_weights_of_sources_go_along_with_the_tokens(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    without = tokenize(tmp_path / "without", tiny, prompting, tiny.curated)
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "source_weights.json").write_text('{"docs": 3.0, "faq": 1.0}')
    weighted = tokenize(tmp_path / "with", tiny, prompting, tiny.curated)

    assert read_weights(verified(weighted.tokens)) == {"docs": 3.0, "faq": 1.0}
    files = folder_files(verified(without.tokens))
    assert WEIGHTS_FILE not in files
    assert {
        name: digest
        for name, digest in folder_files(weighted.tokens).items()
        if name not in (WEIGHTS_FILE, "manifest.json")
    } == {name: digest for name, digest in files.items() if name != "manifest.json"}


def test_the_same_records_give_the_same_bytes(
    tmp_path: Path, tiny: Tiny, prompting: PromptingParams
) -> None:
    one = tokenize(tmp_path / "one", tiny, prompting, tiny.curated)
    two = tokenize(tmp_path / "two", tiny, prompting, tiny.curated)
    manifests = [(paths.tokens / "manifest.json").read_bytes() for paths in (one, two)]
    assert manifests[0] == manifests[1]
