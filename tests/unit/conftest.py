"""Tiny models, an index and a data set, made on the spot, for the tests of what uses models."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.records.schema import Document, Message, Record, write_documents, write_records
from tasks.stage.outputs import write_manifest
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams, read_yaml
from tests.builders.known_templates import rendered_here

if TYPE_CHECKING:
    from tests.builders.registry import Shop
    from tests.builders.serving import Bundles

TEMPLATE = Path("params/prompts/answer.jinja")


@dataclass(frozen=True)
class Tiny:
    """Where the tiny models and the data lie."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def base(self) -> Path:
        return self.root / "base.json"

    @property
    def embedder(self) -> Path:
        return self.root / "embedder.json"

    @property
    def retriever(self) -> Path:
        return self.root / "retriever"

    @property
    def reranker(self) -> Path:
        return self.root / "reranker.json"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def student_base(self) -> Path:
        return self.base

    @property
    def students(self) -> Path:
        return self.root / "students"

    @property
    def student(self) -> Path:
        return self.students / "2" / "student"

    @property
    def control(self) -> Path:
        return self.students / "2" / "control"

    @property
    def curated(self) -> Path:
        return self.root / "curated"


@pytest.fixture(scope="session")
def compute() -> ComputeParams:
    return ComputeParams(
        device="cpu",
        threads=1,
        dequantized_base=True,
        micro_batch_tokens=256,
        generation_batch=8,
    )


@pytest.fixture(scope="session")
def prompting() -> PromptingParams:
    return PromptingParams(
        language="auto",
        passages=2,
        passage_words=8,
        passage_tokens=64,
        passage_overlap_words=2,
        max_new_tokens=4,
    )


@pytest.fixture(scope="session")
def models() -> ModelsParams:
    return ModelsParams.model_validate(read_yaml(Path("params/models.yaml")))


def document(number: int) -> Document:
    text = f"Return thing{number} of the number{number} with care, then stop and rest a while."
    return Document(f"mod.f{number}", text, f"mod.f{number}", "test", "CC0")


def record(number: int) -> Record:
    turns = (Message("user", f"What does mod.f{number} do?"), Message("assistant", "Return it."))
    if number % 4 == 3:
        turns = (
            Message("user", f"What does mod.g{number} do?"),
            Message("assistant", "I don't know."),
        )
        return Record(f"r{number}", turns, (), "unanswerable", f"r{number}", "test", "CC0", "n1")
    name = f"mod.f{number}"
    return Record(f"r{number}", turns, (name,), "purpose", name, "test", "CC0", "n1")


def write_curated(folder: Path, *, documents: int, records: int) -> None:
    """Write a curated folder whose splits are all alike."""
    folder.mkdir(parents=True)
    rows = [record(number) for number in range(records)]
    for split in ("train", "validation", "test"):
        write_records(folder / f"{split}.jsonl", rows)
    write_documents(folder / "documents.jsonl", map(document, range(documents)))
    (folder / "lineage.jsonl").write_text("")
    write_manifest(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A base, an embedder, an adapter, a student and a data set, each of a few kilobytes."""
    from tasks.models.store import convert

    made = Tiny(tmp_path_factory.mktemp("tiny"))
    with rendered_here():
        convert("tiny:llama", None, "causal_lm", made.store).write(made.base)
    _make_embedder(made.root / "bert", made)
    convert(str(made.root / "bert"), None, "embedder", made.store).write(made.embedder)
    made.retriever.mkdir()
    shutil.copyfile(made.embedder, made.retriever / "embedder.json")
    write_manifest(made.retriever)
    made.reranker.write_text("null\n")
    _make_adapter(made)
    write_curated(made.curated, documents=12, records=12)
    return made


@pytest.fixture(scope="session")
def tokens(
    tiny: Tiny, prompting: PromptingParams, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokens of the tiny data set, by the stage's own code."""
    from tests.unit.tokenization.test_tokenization import tokenize

    root = tmp_path_factory.mktemp("tokens")
    return tokenize(root, tiny, prompting, tiny.curated).tokens


@pytest.fixture(scope="session")
def released(
    tiny: Tiny,
    scored: "Scored",
    prompting: PromptingParams,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A release bundle of the tiny models; its packaging report lies beside it, in `report`."""
    from tests.builders.packaging import package, packaging_params

    root = tmp_path_factory.mktemp("released")
    params = packaging_params(prompting, models, compute)
    return package(root, params, tiny, scored.index, scored.report)


def _weights(made: Tiny) -> Path:
    from tasks.models.manifest import ModelManifest

    return ModelManifest.read(made.base).folder(made.store)


def _make_embedder(folder: Path, made: Tiny) -> None:
    import torch
    from transformers import BertConfig, BertModel

    shutil.copytree(_weights(made), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = BertConfig(
        vocab_size=3000,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertModel(config).save_pretrained(folder)


def _make_adapter(made: Tiny) -> None:
    """An adapter with random weights and, as student and control, the base with other weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(_weights(made))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(made.adapter)
        for folder in (made.student, made.control):
            shutil.copytree(_weights(made), folder)
            student = AutoModelForCausalLM.from_pretrained(_weights(made))
            for parameter in student.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
            student.save_pretrained(folder)
    shutil.copyfile(made.base, made.adapter / "base.json")
    _write_prompt_kits(made)
    for folder in (made.adapter, made.student, made.control):
        _write_provenance(folder)
    for folder in (made.adapter, made.student, made.control, made.students):
        write_manifest(folder)


def _write_provenance(folder: Path) -> None:
    found = {
        "data_sha256": "d" * 64,
        "template_sha256": "e" * 64,
        "numeric_form": "nf4_dequantized",
        "params": {"method": "qlora", "rank": 4, "seed": 0},
        "versions": {"torch": "2"},
    }
    (folder / "training.json").write_text(json.dumps(found))


def _write_prompt_kits(made: Tiny) -> None:
    from tasks.models.loading import load_tokenizer
    from tasks.prompting.files import PROMPT
    from tasks.prompting.prompt_bundle import write_prompt_bundle
    from tasks.prompting.templates import Prompt, PromptTemplate

    tokenizer = load_tokenizer(_weights(made))
    prompts = [Prompt(record(number).messages[:-1], ("A passage.",)) for number in range(12)]
    for folder in (made.adapter, made.student, made.control):
        template = PromptTemplate.load(TEMPLATE)
        write_prompt_bundle(folder / PROMPT, template, tokenizer, prompts)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database, to be copied."""
    from tests.builders.registry import make_template

    return make_template(tmp_path_factory.mktemp("store"))


@pytest.fixture
def shop(empty_store: Path, tmp_path: Path) -> "Shop":
    """A registry of small bundles in a store of its own."""
    from tests.builders.registry import Shop

    return Shop.open(tmp_path / "shop", empty_store)


@pytest.fixture(scope="session")
def reigned_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which version 1 was in production and 2 is, to be copied."""
    from tests.builders.registry import Shop

    shop = Shop.open(tmp_path_factory.mktemp("reigned"), empty_store)
    for number, text in enumerate(("one", "two"), start=1):
        shop.release(text)
        shop.promote(number)
    return shop.database


@pytest.fixture
def reigned(reigned_store: Path, tmp_path: Path) -> "Shop":
    """A registry in which version 1 was in production and 2 is."""
    from tests.builders.registry import Shop

    return Shop.open(tmp_path / "shop", reigned_store)


@dataclass(frozen=True)
class Scored:
    """A tiny night up to evaluation: the index and the evaluation's report."""

    index: Path
    report: Path


def score_night(root: Path, tiny: Tiny, curated: Path, shared: Mapping[str, Any]) -> Scored:
    """The index and the evaluation of the tiny models on a data set, by the stages' own code.

    `shared` are the params of models, prompting and compute.
    """
    from tasks.evaluation import __main__ as evaluation
    from tasks.indexing import __main__ as indexing

    usual = {name: shared[name] for name in ("prompting", "compute")}
    indexing.run(
        indexing.Params.model_validate(
            usual
            | {name: read_yaml(Path(f"params/{name}.yaml")) for name in ("indexing", "reranking")}
        ),
        indexing.Paths(
            curated=curated,
            base=tiny.base,
            retriever=tiny.retriever,
            reranker=tiny.reranker,
            model_store=tiny.store,
            scratch=root / "scratch" / "indexing",
            index=root / "index",
            indexing_report=root / "indexing",
        ),
    )
    settings = read_yaml(Path("params/evaluation.yaml")) | {"records": 8, "resamples": 200}
    evaluation.run(
        evaluation.Params.model_validate(dict(shared) | {"evaluation": settings}),
        evaluation.Paths(
            curated=curated,
            base=tiny.base,
            retriever=tiny.retriever,
            model_store=tiny.store,
            adapter=tiny.adapter,
            students=tiny.students,
            index=root / "index",
            scratch=root / "scratch" / "evaluation",
            evaluation_report=root / "evaluation",
        ),
    )
    return Scored(root / "index", root / "evaluation")


@pytest.fixture(scope="session")
def scored(
    tiny: Tiny,
    prompting: PromptingParams,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scored:
    """A night of the tiny models on their own data set."""
    shared = {"prompting": prompting, "models": models, "compute": compute}
    return score_night(tmp_path_factory.mktemp("scored"), tiny, tiny.curated, shared)


@pytest.fixture(scope="session")
def bundles(
    tiny: Tiny,
    scored: Scored,
    prompting: PromptingParams,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path_factory: pytest.TempPathFactory,
) -> "Bundles":
    """Two release bundles of the tiny models, whose answers differ and have at most 10 tokens."""
    from tests.builders.serving import make_bundles

    longer = prompting.model_copy(update={"max_new_tokens": 10})
    shared = {"prompting": longer, "models": models, "compute": compute}
    return make_bundles(tmp_path_factory.mktemp("bundles"), tiny, scored, shared)
