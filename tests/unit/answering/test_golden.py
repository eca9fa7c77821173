"""A bundle loads only where it finds, asks and answers its golden prompts as recorded."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tasks.answering.golden import GoldenPrompts
from tasks.answering.loading import load_answerer
from tasks.models.manifest import ModelManifest
from tasks.models.store import convert
from tasks.packaging.assembly import refuse_pickles
from tasks.packaging.golden_prompts import certain_tokens
from tasks.prompting import templates as prompts
from tasks.retrieval.index import Index
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.metrics import read_metrics
from tasks.stage.outputs import write_manifest
from tests.builders.known_templates import rendered_here
from tests.builders.packaging import PACKAGING, forge_prompt_ids, rewrite_golden

pytestmark = pytest.mark.slow


@pytest.fixture
def made(released: Path) -> Path:
    return released


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(made, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_bundle_carries_golden_prompts_of_both_models(made: Path) -> None:
    for golden in GoldenPrompts.read(made).models.values():
        assert len(golden) == PACKAGING["golden"]
        assert all(item.prompt_ids and len(item.passages) == 2 for item in golden)
        checked = [item for item in golden if item.checked_tokens]
        assert 1 <= len(checked) <= PACKAGING["golden_answers"]
        assert all(item.checked_tokens <= PACKAGING["golden_tokens"] for item in checked)


def test_a_whole_bundle_loads_and_answers_its_golden_prompts(made: Path, tiny: Any) -> None:
    answerer = load_answerer(made, tiny.store, "adapter")
    golden = GoldenPrompts.read(made).models["adapter"]
    answers = answerer.answer([item.prompt.turns for item in golden])
    assert [answer.token_ids for answer in answers] == [item.answer_ids for item in golden]


def test_other_passages_are_named_by_prompt_and_id(bundle: Path, tiny: Any) -> None:
    rewrite_golden(bundle, lambda item: {"passages": item.passages[::-1]})
    with pytest.raises(ConfigError, match=r"golden prompt 1 of 4 \(record r\d+\) finds passages"):
        load_answerer(bundle, tiny.store, "adapter")
    load_answerer(bundle, tiny.store, "student")  # whose own were left alone


def test_a_search_that_ranks_otherwise_is_noticed(
    made: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = Index._scored
    monkeypatch.setattr(Index, "_scored", lambda *given: fuse(*given)[::-1])
    with pytest.raises(ConfigError, match=r"golden prompt 1 of 4 .* finds passages"):
        load_answerer(made, tiny.store, "adapter")


def test_other_token_ids_are_named_by_prompt_and_place(bundle: Path, tiny: Any) -> None:
    forge_prompt_ids(bundle)
    with pytest.raises(
        ConfigError, match=r"golden prompt 1 of 4 .* at token 6: it is \d+ and was 7"
    ):
        load_answerer(bundle, tiny.store, "adapter")


def test_newer_code_that_asks_otherwise_is_noticed(
    made: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "quoted", lambda passage: f"> {passage}")
    with pytest.raises(ConfigError, match="golden prompt"):
        load_answerer(made, tiny.store, "adapter")


def test_another_first_token_of_an_answer_is_named(bundle: Path, tiny: Any) -> None:
    rewrite_golden(bundle, lambda item: {"answer_ids": (9, *item.answer_ids[1:])})
    with pytest.raises(ConfigError, match=r"the answer to a golden prompt .* token 1: .* was 9"):
        load_answerer(bundle, tiny.store, "adapter")


def test_a_model_that_answers_otherwise_is_noticed(
    made: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.answering import loading as serving

    load = serving.load_served

    def swapped(*given: Any, **named: Any) -> Any:
        found = load(*given, **named)
        # The head alone: with the embeddings, which may be the same tensor, signs cancel out.
        head = found.model.lm_head
        head.weight = nn.Parameter(-head.weight.detach())
        return found

    monkeypatch.setattr(serving, "load_served", swapped)
    with pytest.raises(ConfigError, match="the answer to a golden prompt"):
        load_answerer(made, tiny.store, "adapter")


@pytest.mark.parametrize("text", ["[]", '{"format": 1, "models": {}}', None])
def test_a_bundle_without_golden_prompts_of_this_format_is_refused(
    bundle: Path, tiny: Any, text: str | None
) -> None:
    path = bundle / "golden.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    write_manifest(bundle)
    with pytest.raises(ConfigError, match=r"no golden\.json of format 2"):
        load_answerer(bundle, tiny.store, "adapter")


@pytest.mark.parametrize(
    "name",
    ["adapter/adapter_model.safetensors", "index/passages.jsonl", "settings.json", "base.json"],
)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_bundle_with_a_changed_byte_or_a_missing_file_is_refused_by_its_name(
    bundle: Path, tiny: Any, name: str, how: str
) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "changed":
        content[-2] ^= 1
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"missing, added or changed: {name}"):
        load_answerer(bundle, tiny.store, "adapter")


def test_a_base_that_is_not_the_recorded_one_is_refused(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    shutil.copytree(tiny.store, tmp_path / "store")
    base = ModelManifest.read(bundle / "base.json")
    weights = base.folder(tmp_path / "store") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataError, match=r"missing or changed: model\.safetensors"):
        load_answerer(bundle, tmp_path / "store", "adapter")


def test_a_bundle_of_another_base_is_refused(bundle: Path, tiny: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = ModelManifest.read(bundle / "base.json").folder(tiny.store)
    shutil.copytree(source, tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(source)
    model.model.norm.weight.data += 1
    model.save_pretrained(tmp_path / "other")
    shutil.copytree(tiny.store, tmp_path / "store")
    with rendered_here():
        other = convert(str(tmp_path / "other"), None, "causal_lm", tmp_path / "store")
    other.write(bundle / "base.json")
    write_manifest(bundle)
    with pytest.raises(ConfigError, match="was trained on the base"):
        load_answerer(bundle, tmp_path / "store", "adapter")


def test_a_pickle_in_a_part_is_refused(made: Path, tmp_path: Path) -> None:
    import pickle

    import torch

    refuse_pickles(made)  # a bundle holds none
    shutil.copytree(made, tmp_path / "bundle")
    for name, write in {
        "adapter/training_args.bin": lambda path: path.write_bytes(b"anything"),
        "index/vectors.dat": lambda path: path.write_bytes(pickle.dumps([1])),
        "student/weights.dat": lambda path: torch.save({}, path),
    }.items():
        path = tmp_path / "bundle" / name
        write(path)
        with pytest.raises(ConfigError, match=f"1 files of the bundle .*{path.name}"):
            refuse_pickles(tmp_path / "bundle")
        path.unlink()


def test_tokens_that_rounding_could_turn_are_not_checked(made: Path, tiny: Any) -> None:
    held = load_answerer(made, tiny.store, "adapter").language_model
    item = next(one for one in GoldenPrompts.read(made).models["adapter"] if one.checked_tokens)
    assert certain_tokens(held, item.prompt_ids, item.answer_ids) >= item.checked_tokens
    assert certain_tokens(held, item.prompt_ids, ()) == 0
    other = (item.answer_ids[0] + 1, *item.answer_ids[1:])
    assert certain_tokens(held, item.prompt_ids, other) == 0
    # Two tokens with one row of the head between them: a tie at every place.
    head = held.model.lm_head.weight.data
    head[(item.answer_ids[0] + 1) % len(head)] = head[item.answer_ids[0]]
    assert certain_tokens(held, item.prompt_ids, item.answer_ids) == 0


def test_the_report_scores_what_parity_found(made: Path) -> None:
    metrics = read_metrics(made.parent / "report")
    assert metrics["parity"] == {"adapter": 1.0, "student": 1.0}
    scores = metrics["parity_scores"]["adapter"]
    assert scores["records"] == scores["agreeing"] == scores["same_prompts"] == 4
    assert scores["difference"] == scores["largest_difference"] == 0
    assert scores["served"] == scores["evaluated"]
