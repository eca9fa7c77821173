"""Preferences are learned by DPO as TRL computes it, from a reference computed once."""

import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import DPOConfig, DPOTrainer

from tasks.finetuning.__main__ import Paths
from tasks.finetuning.params import FinetuningParams, PreferencesParams
from tasks.finetuning.preferences import (
    SERIES,
    PairBatches,
    PreferenceLoss,
    check_packed,
    learn_preferences,
    make_pair_batches,
    read_pair_batches,
    reference_log_probabilities,
)
from tasks.prompting.chat_encoding import encode_answers
from tasks.records.messages import MisshapenError
from tasks.records.schema import read_records, write_records
from tasks.records.turns import read_turns
from tasks.sequences.attention import attends_by_packs
from tasks.sequences.examples import Example
from tasks.sequences.packing import Pack
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_curve, read_metrics
from tasks.stage.outputs import file_sha256, write_manifest
from tasks.stage.params import ComputeParams, ModelsParams, PromptingParams
from tasks.tokenization.preferences import EncodedPairs, check_pairs, encode_pairs
from tasks.training.batches import make_batches
from tasks.training.params import TrainingParams
from tests.unit.conftest import Tiny
from tests.unit.finetuning.test_documents import fine_tuned
from tests.unit.finetuning.test_finetuning import PARAMS
from tests.unit.generation.test_greedy_decoding import make
from tests.unit.sequences.test_packing import examples, read_yaml_training
from tests.unit.tokenization.test_tokenization import tokenize

pytestmark = pytest.mark.slow

SETTINGS = read_yaml_training().model_copy(
    update={"batch_examples": 4, "evaluations": 3, "patience": 9, "learning_rate": 1e-3}
)
BETA = 0.1
OWN = PreferencesParams(beta=BETA, learning_rate=1e-2, token_budget=4000)


def pairs(count: int) -> list[Example]:
    """Pairs whose chosen answer begins with 7 and whose rejected one begins with 8."""
    draw = torch.Generator().manual_seed(3)

    def tokens(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, 90, (size,), generator=draw).tolist())

    found = []
    for at in range(count):
        prompt = tokens(12 + at)
        answers = {"chosen": (7, *tokens(3)), "rejected": (8, *tokens(1 + at % 4))}
        found += [
            Example(f"p{at} {kind}", "", "", kind, f"p{at}", prompt + answer, len(prompt))
            for kind, answer in answers.items()
        ]
    return found


def moved(model: PreTrainedModel) -> PreTrainedModel:
    """The model after some training, so that it is no longer its reference."""
    other = deepcopy(model)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return other


def trl_loss(
    model: PreTrainedModel, reference: PreTrainedModel, tiny: Tiny, rows: list[Example],
    folder: Path,
) -> float:  # fmt: skip
    """What TRL's DPOTrainer finds of the same token ids in one batch."""
    tokenizer = make("llama", tiny).tokenizer
    count = len(rows) // 2
    text = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * count
    arguments = DPOConfig(
        output_dir=str(folder), beta=BETA, use_cpu=True, report_to="none", bf16=False,
        per_device_train_batch_size=count, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model, reference, arguments, train_dataset=Dataset.from_list(text),
        processing_class=tokenizer,
    )  # fmt: skip
    inputs = trainer.data_collator(
        [
            {
                "prompt_ids": list(one.token_ids[: one.prompt_length]),
                "chosen_ids": list(one.token_ids[one.prompt_length :]),
                "rejected_ids": list(other.token_ids[other.prompt_length :]),
            }
            for one, other in zip(rows[0::2], rows[1::2], strict=True)
        ]
    )
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, inputs))


def packed(
    model: PreTrainedModel, learned: list[Example], params: TrainingParams,
    held_out: Sequence[Example] = (),
) -> PairBatches:  # fmt: skip
    """Batches of pairs for a model that is set to attend by packs."""
    pairs = PairBatches(
        make_pair_batches(learned, params, max_tokens=64),
        make_pair_batches(held_out, params, max_tokens=64),
    )
    check_packed(model, pairs)
    return pairs


def test_the_loss_is_that_of_trl(tiny: Tiny, tmp_path: Path) -> None:
    reference = make("llama", tiny).model
    model, rows = moved(reference), pairs(5)
    expected = trl_loss(deepcopy(model), deepcopy(reference), tiny, rows, tmp_path)
    params = SETTINGS.model_copy(update={"batch_examples": 10})
    [batch] = packed(reference, rows, params).learned
    loss = PreferenceLoss(BETA, reference_log_probabilities(reference, [batch]))
    at_first = sum(loss(reference, pack).item() for pack in batch.packs) / batch.supervised
    assert at_first == pytest.approx(0.6931472, abs=1e-4)
    check_packed(model, PairBatches([batch]))
    with torch.no_grad():
        found = sum(loss(model, pack).item() for pack in batch.packs) / batch.supervised
    assert abs(expected - 0.6931472) > 1e-2
    assert found == pytest.approx(expected, abs=1e-4)


def test_preferences_go_through_the_one_trainer_and_tell_what_they_bought_and_cost(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = make("llama", tiny).model
    rows = pairs(24)
    both = packed(model, rows[:32], SETTINGS, rows[32:])
    answers = make_batches(examples(3), SETTINGS, max_tokens=64)
    own = PreferencesParams(beta=BETA, learning_rate=1e-3, token_budget=4000)
    params = PARAMS.model_copy(update=SETTINGS.model_dump() | {"preferences": own})
    result = learn_preferences(
        model, both, answers, params, scratch=tmp_path, identity="a", share=(0.5, 1.0)
    )
    assert result is not None
    assert (result.pairs, result.held_out, result.steps) == (16, 8, 8)
    assert result.loss < 0.67
    assert result.accuracy > 0.7
    assert result.preferred_after >= result.preferred_before
    assert result.answers_loss_after != result.answers_loss_before
    assert "16 pairs in 8 steps" in result.text
    assert "bought nothing" not in result.text
    assert "bought nothing" in replace(result, loss=0.7).text
    first = read_curve(tmp_path, "validation_loss", series=SERIES)[0]
    assert first == (0, pytest.approx(0.6931472, abs=1e-4))


def test_a_pair_stays_in_one_pack() -> None:
    for batch in make_pair_batches(pairs(9), SETTINGS, max_tokens=1):
        assert [pack.examples for pack in batch.packs] == [2] * batch.supervised
        assert [pack.examples for pack in batch.repacked(1).packs] == [2] * batch.supervised


def with_preferences(preferences: PreferencesParams | None, **changes: object) -> FinetuningParams:
    own = {"token_budget": 1500, "rank": 2, "preferences": preferences}
    return PARAMS.model_copy(update=own | changes)


def with_rejected(tiny: Tiny, root: Path) -> Path:
    """The tiny data with a rejected answer for all records of two splits but one."""
    folder = root / "curated"
    shutil.copytree(tiny.curated, folder)
    for split in ("train", "validation"):
        path = folder / f"{split}.jsonl"
        rows = [replace(item, rejected="Burn it all.") for item in read_records(path)]
        write_records(path, [replace(rows[0], rejected=""), *rows[1:]])
    write_manifest(folder)
    return folder


def test_rejected_answers_are_learned_where_params_say_so_alone(
    tiny: Tiny,
    prompting: PromptingParams,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path: Path,
) -> None:
    curated = with_rejected(tiny, tmp_path)

    def night(name: str, preferences: PreferencesParams | None) -> Paths:
        root, on = tmp_path / name, preferences is not None
        tokens = tokenize(root, tiny, prompting, curated, preferences=on).tokens
        return fine_tuned(root, tokens, tiny, models, compute, with_preferences(preferences))

    plain = tokenize(tmp_path / "plain", tiny, prompting, tiny.curated).tokens
    off = night("off", None)
    assert file_sha256(off.tokens / "manifest.json") == file_sha256(plain / "manifest.json")
    assert "preferences" not in read_metrics(off.finetuning_report)
    assert "preferences" not in (off.adapter / "training.json").read_text()
    on = night("on", OWN)
    told = read_metrics(on.finetuning_report)["preferences"]
    assert (told["pairs"], told["held_out"]) == (11, 11)
    assert told["loss"] < 0.68
    assert told["preferred_after"] >= told["preferred_before"]
    assert "Preferences (DPO): 11 pairs" in (on.finetuning_report / "report.md").read_text()
    assert '"beta": 0.1' in (on.adapter / "training.json").read_text()


class KilledError(Exception):
    """Stands for a kill."""


def test_a_training_killed_in_its_preferences_ends_in_the_bytes_it_would_have(
    tiny: Tiny,
    prompting: PromptingParams,
    models: ModelsParams,
    compute: ComputeParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    curated = with_rejected(tiny, tmp_path)
    tokens = tokenize(tmp_path, tiny, prompting, curated, preferences=True).tokens
    params = with_preferences(OWN, epochs=3, evaluations=9, patience=9)

    def train_in(name: str) -> Paths:
        return fine_tuned(tmp_path / name, tokens, tiny, models, compute, params)

    straight = train_in("one")
    steps = read_curve(straight.scratch, "loss", series=SERIES)
    plain = PreferenceLoss.__call__

    def killed(self: PreferenceLoss, model: nn.Module, pack: Pack) -> Tensor:
        taken = len(read_curve(tmp_path / "two" / "scratch", "loss", series=SERIES))
        if taken == len(steps) - 1:
            raise KilledError
        return plain(self, model, pack)

    monkeypatch.setattr(PreferenceLoss, "__call__", killed)
    with pytest.raises(KilledError):
        train_in("two")
    monkeypatch.undo()
    resumed = train_in("two")
    for name in ("adapter_model.safetensors", "training.json"):
        assert (resumed.adapter / name).read_bytes() == (straight.adapter / name).read_bytes()
    told = [read_metrics(paths.finetuning_report) for paths in (straight, resumed)]
    assert told[0] == told[1]
    assert read_curve(resumed.scratch, "loss", series=SERIES) == steps


def test_a_pair_of_equal_answers_is_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    row = {"question": "What?", "answer": "This.", "rejected_answer": " This. "}
    with pytest.raises(MisshapenError, match="rejected_answer is the answer itself"):
        read_turns(row)
    assert read_turns(row | {"rejected_answer": "That."}).rejected == "That."
    records = read_records(with_rejected(tiny, tmp_path) / "train.jsonl")
    equal = [replace(item, rejected=item.answer) for item in records[1:3]]
    tokenizer = make("llama", tiny).tokenizer
    ids = encode_answers(tokenizer, [item.answer for item in equal])
    made = [
        Example(item.id, "", "", "", "", (1, 2, *own), 2)
        for item, own in zip(equal, ids, strict=True)
    ]
    with pytest.raises(DataError, match=f"two equal answers, {equal[0].id}"):
        encode_pairs(equal, made, tokenizer, 512)


def test_data_without_a_pair_to_learn_or_to_measure_are_refused(
    tiny: Tiny, prompting: PromptingParams, tmp_path: Path
) -> None:
    said = "0 of train, 0 more too long; 0 of validation"
    with pytest.raises(DataError, match=said):
        tokenize(tmp_path, tiny, prompting, tiny.curated, preferences=True)
    made = [one for one in pairs(1) if one.variant == "chosen"]
    with pytest.raises(DataError, match="0 of validation, 1 more too long"):
        check_pairs(EncodedPairs(made * 2, []), EncodedPairs([], ["long"]))


def test_preferences_without_token_ids_of_pairs_are_refused(tokens: Path) -> None:
    params = PARAMS.model_copy(update={"preferences": OWN})
    with pytest.raises(ConfigError, match="made no token ids of rejected answers"):
        read_pair_batches(tokens, params, max_tokens=256)


def test_a_model_that_cannot_pack_a_pair_is_refused_before_training(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama", tiny).model
    batches = PairBatches(make_pair_batches(pairs(3), SETTINGS, max_tokens=64))
    monkeypatch.setattr("tasks.sequences.packing_check.packs_exactly", lambda _: False)
    check_packed(model, PairBatches())
    with pytest.raises(ConfigError, match="computes each example alone"):
        check_packed(model, batches)


def test_a_model_that_treats_long_answers_otherwise_is_not_set_to_pack_short_pairs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama", tiny).model
    batches = PairBatches(make_pair_batches(pairs(3), SETTINGS, max_tokens=64))
    longest = max(len(item.token_ids) for batch in batches.learned for item in batch.examples)
    answers = make_batches(examples(3), SETTINGS, max_tokens=64)
    most = max(len(item.token_ids) for batch in answers for item in batch.examples)
    assert longest < most
    monkeypatch.setattr("tasks.sequences.packing_check.alike_up_to", lambda _: float(longest))
    with pytest.raises(ConfigError, match="computes each example alone"):
        check_packed(model, batches, [answers])
    assert not attends_by_packs(model)
