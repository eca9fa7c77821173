"""Documents take their share of the budget and come first; without a share nothing changes."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.finetuning.__main__ import Paths, run
from tasks.finetuning.adapter import make_trainable, save_trained
from tasks.finetuning.documents import TrainingBatches, read_training_batches
from tasks.finetuning.params import FinetuningParams, Params
from tasks.models.loading import load_for_training, prepare_device
from tasks.sequences.examples import (
    DOCUMENT,
    DOCUMENTS_FILE,
    HELD_OUT_DOCUMENTS_FILE,
    read_examples,
)
from tasks.sequences.likelihood import summed_cross_entropy
from tasks.sequences.packing import Batch
from tasks.sequences.packing_check import prepare_packs
from tasks.stage.errors import ConfigError
from tasks.stage.metrics import read_curve, read_metrics
from tasks.stage.outputs import write_manifest
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams
from tasks.training.batches import epoch_order, read_batches
from tasks.training.loop import train, training_identity
from tests.unit.conftest import Tiny
from tests.unit.finetuning.test_finetuning import PARAMS
from tests.unit.tokenization.test_tokenization import tokenize

pytestmark = pytest.mark.slow

LITTLE = PARAMS.model_copy(
    update={"token_budget": 1500, "rank": 2, "validation_examples": 4, "learning_rate": 5e-3}
)


@pytest.fixture(scope="module")
def with_documents(
    tiny: Tiny, prompting: PromptingParams, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tokens of the tiny data set and its documents; three of these are held out."""
    root = tmp_path_factory.mktemp("documents")
    return tokenize(
        root,
        tiny,
        prompting,
        tiny.curated,
        documents=True,
        held_out_documents=0.999,
        max_tokens=256,
    ).tokens


def with_share(share: float, **changes: object) -> FinetuningParams:
    return LITTLE.model_copy(update={"documents_share": share} | changes)


def read(tokens: Path, params: FinetuningParams) -> TrainingBatches:
    return read_training_batches(tokens, params, max_tokens=256)


def tokens_of(batches: list[Batch]) -> int:
    return sum(batch.tokens for batch in batches)


def fine_tuned(
    root: Path,
    tokens: Path,
    tiny: Tiny,
    models: ModelsParams,
    compute: ComputeParams,
    params: FinetuningParams,
) -> Paths:
    paths = Paths(
        tokens=tokens, base=tiny.base, model_store=tiny.store, scratch=root / "scratch",
        adapter=root / "adapter", finetuning_report=root / "report",
    )  # fmt: skip
    run(Params(finetuning=params, models=models, compute=compute), paths)
    return paths


def test_without_a_share_the_adapter_has_the_bytes_of_one_trained_on_answers_alone(
    tiny: Tiny,
    with_documents: Path,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path: Path,
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(with_documents, plain)
    for name in (DOCUMENTS_FILE, HELD_OUT_DOCUMENTS_FILE):
        (plain / name).unlink()
    write_manifest(plain)
    found = fine_tuned(tmp_path / "one", plain, tiny, models, compute, with_share(0.0))

    device = prepare_device(compute)
    base = load_for_training(
        tiny.base, tiny.store, device, numeric_form=models.numeric_form, dtype="float32",
        dequantized=True,
    )  # fmt: skip
    batches, held_out = read_batches(plain, LITTLE, max_tokens=compute.micro_batch_tokens)
    model = make_trainable(base, LITTLE)
    batches, held_out = prepare_packs(base.model, batches, held_out)
    train(
        model, batches, held_out, summed_cross_entropy, LITTLE, scratch=tmp_path / "two",
        identity=training_identity(LITTLE, base.digest, models.numeric_form, plain),
    )  # fmt: skip
    save_trained(model, LITTLE, tiny.base, tmp_path / "expected", tmp_path / "start")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        expected = (tmp_path / "expected" / name).read_bytes()
        assert (found.adapter / name).read_bytes() == expected, name
    params = json.loads((found.adapter / "training.json").read_text())["params"]
    off = {"documents_share", "preferences"}
    assert params == {name: value for name, value in PARAMS_AS_TOLD.items() if name not in off}
    assert "documents" not in read_metrics(found.finetuning_report)


PARAMS_AS_TOLD = {name: getattr(LITTLE, name) for name in FinetuningParams.model_fields}


def test_documents_lower_the_perplexity_of_those_that_were_held_out(
    tiny: Tiny,
    with_documents: Path,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path: Path,
) -> None:
    paths = fine_tuned(tmp_path, with_documents, tiny, models, compute, with_share(0.4))
    told = read_metrics(paths.finetuning_report)["documents"]
    assert told["perplexity_after"] < told["perplexity_before"]
    assert (told["documents"], told["held_out"]) == (9, 3)
    assert math.isclose(told["share"], 0.4, abs_tol=0.2)
    text = (paths.finetuning_report / "report.md").read_text()
    assert f"{told['perplexity_before']:.2f} before" in text
    params = json.loads((paths.adapter / "training.json").read_text())["params"]
    assert params["documents_share"] == 0.4
    curves = tmp_path / "scratch"
    led = [step for step, _ in read_curve(curves, "leading_loss")]
    steps = [step for step, _ in read_curve(curves, "loss")]
    assert led == list(range(1, len(led) + 1))
    assert steps == list(range(len(led) + 1, len(led) + len(steps) + 1))


def test_documents_and_answers_share_one_budget(with_documents: Path) -> None:
    budget = 800
    found = read(with_documents, with_share(0.4, token_budget=budget))
    documents = tokens_of(found.documents)
    answers = sum(batch.computed_tokens for batch in found.answers)
    assert 0 < documents <= 0.4 * budget
    assert 0 < answers <= budget - documents
    assert {item.variant for batch in found.documents for item in batch.examples} == {DOCUMENT}
    assert DOCUMENT not in {item.variant for batch in found.answers for item in batch.examples}
    whole = read(with_documents, with_share(0.0, token_budget=budget))
    assert answers < sum(batch.computed_tokens for batch in whole.answers)
    assert not whole.documents


def test_what_is_held_out_is_never_learned(with_documents: Path) -> None:
    found = read(with_documents, with_share(0.9, token_budget=20_000))
    learned = {item.id for batch in found.documents for item in batch.examples}
    assert learned == {item.id for item in read_examples(with_documents / DOCUMENTS_FILE)}
    measured = {item.id for batch in found.held_out_documents for item in batch.examples}
    assert measured
    assert not learned & measured


def test_leading_batches_come_first_in_every_epoch() -> None:
    assert epoch_order(9, 0, 0, leading=4) == list(range(9))
    orders = [epoch_order(9, 0, epoch, leading=4) for epoch in range(1, 6)]
    assert all(sorted(order[:4]) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert epoch_order(9, 0, 1, leading=0) == epoch_order(9, 0, 1)


@pytest.mark.parametrize(
    ("share", "changes", "said"),
    [
        (0.01, {}, "hold no piece of a document"),
        (0.99, {"token_budget": 300}, "which hold not one context"),
    ],
)
def test_a_share_that_leaves_nothing_for_one_of_the_two_is_refused(
    share: float, changes: dict[str, Any], said: str, with_documents: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        read(with_documents, with_share(share, **changes))


def test_a_share_without_documents_is_refused(tokens: Path) -> None:
    with pytest.raises(ConfigError, match="tokenization made no token ids of documents"):
        read(tokens, with_share(0.2))


def test_a_share_of_all_is_no_share() -> None:
    with pytest.raises(ValueError, match="documents_share"):
        FinetuningParams.model_validate(PARAMS_AS_TOLD | {"documents_share": 1.0})
