"""Data of the default's shape keep their examples in every script, with the params as they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.models.manifest import ModelManifest
from tasks.models.store import find_embedded
from tasks.records.schema import SPLITS, Message, write_documents, write_records
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import PromptingParams, read_yaml
from tasks.tokenization.__main__ import Paths
from tests.builders.languages import LANGUAGES, Language, made_data
from tests.unit.conftest import Tiny
from tests.unit.tokenization.test_tokenization import tokenize

pytestmark = pytest.mark.slow

DEFAULT = PromptingParams.model_validate(read_yaml(Path("params/prompting.yaml")))


def curated(root: Path, language: Language, count: int = 60, *, long: bool = False) -> Path:
    """The made data; `long`: each question quotes a sentence first, as in reading comprehension."""
    folder = root / "curated"
    folder.mkdir(parents=True)
    records, documents = made_data(language, count)
    if long:
        quoted = language.sentences[2:]
        records = [
            replace(item, messages=(
                Message("user", f"{quoted[at % len(quoted)]} {item.question}"), item.messages[-1]
            ))
            for at, item in enumerate(records)
        ]  # fmt: skip
    for place, split in enumerate(SPLITS):
        write_records(folder / f"{split}.jsonl", records[place::3])
    write_documents(folder / "documents.jsonl", documents)
    write_manifest(folder)
    return folder


def kept(paths: Paths) -> float:
    counts = [read_metrics(paths.tokenization_report)[split] for split in SPLITS]
    return sum(one["examples"] for one in counts) / sum(one["records"] for one in counts)


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_default_params_keep_nearly_every_example(
    name: str, tmp_path: Path, tiny: Tiny
) -> None:
    """The tiny base spends more tokens on every one of these scripts than real ones do."""
    folder = curated(tmp_path, LANGUAGES[name])
    paths = tokenize(tmp_path, tiny, DEFAULT, folder, max_long_answer_share=1.0)
    assert kept(paths) >= 0.99


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tokenizers of the models that params name, without their weights."""
    from transformers import PreTrainedTokenizerFast

    made = Tiny(tmp_path_factory.mktemp("default"))
    try:
        _, gguf = find_embedded("smollm2-135m-instruct", "causal_lm")
        _, encoder = find_embedded("all-minilm-l6-v2", "embedder")
    except ConfigError as error:
        pytest.skip(str(error))
    for digest, manifest in (("base", made.base), ("embedder", made.embedder)):
        folder = made.store / digest
        folder.mkdir(parents=True)
        if digest == "base":
            tokenizer = PreTrainedTokenizerFast.from_pretrained(gguf.parent, gguf_file=gguf.name)
            tokenizer.save_pretrained(folder)
        else:
            for file in encoder.glob("*.json"):
                (folder / file.name).write_bytes(file.read_bytes())
        ModelManifest(digest, "", "made", None, "MIT", digest, {}).write(manifest)
    return made


@pytest.mark.parametrize("name", LANGUAGES)
def test_long_questions_are_kept_with_fewer_passages(
    name: str, tmp_path: Path, default: Tiny
) -> None:
    paths = tokenize(tmp_path, default, DEFAULT, curated(tmp_path, LANGUAGES[name], long=True))
    metrics = read_metrics(paths.tokenization_report)["train"]
    print(
        f"{name}: {kept(paths):.2%} kept, {metrics['shortened']} of {metrics['records']} with less"
    )
    assert kept(paths) >= 0.99
    assert metrics["variants"]["passages"] >= 0.8 * metrics["records"]


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_default_base_keeps_them_too_and_says_their_answers(
    name: str, tmp_path: Path, default: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = curated(tmp_path, LANGUAGES[name], 300)
    paths = tokenize(tmp_path, default, DEFAULT, folder)
    metrics = read_metrics(paths.tokenization_report)
    with capsys.disabled():
        print(f"\n{name}: {kept(paths):.2%} kept;", json.dumps(metrics["train"])[:200])
    assert kept(paths) >= 0.99
    assert sum(metrics[split]["shortened"] for split in SPLITS) <= 0.2 * 1200
