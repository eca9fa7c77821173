"""A released model leaves as safetensors and GGUF that read back as itself, or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.answering.golden import GoldenPrompts
from tasks.answering.loading import load_served
from tasks.export import verification as reading_back
from tasks.export.__main__ import Export, export, main
from tasks.export.families import to_llama_cpp
from tasks.export.formats import Format
from tasks.export.measurement import Records
from tasks.export.vocabulary import read_vocabulary
from tasks.models.gguf import to_halves, to_pairs, unpack_gguf
from tasks.models.loading import LanguageModel
from tasks.stage.errors import ConfigError, DataError, GateError
from tasks.stage.outputs import verified
from tests.builders.packaging import forge_prompt_ids

pytestmark = pytest.mark.slow

GGUF = [form for form in Format if form is not Format.safetensors]
TEXT = "json.dumps(x, indent=4)  # 한국어 漢字\n\tand 12345 more"


@pytest.fixture
def bundle(released: Path) -> Path:
    return released


def asked(bundle: Path, tiny: Any, target: Path, **given: Any) -> Export:
    usual = {"model": "adapter", "form": Format.gguf_f16, "name": "m-1", "measured": None}
    return Export(bundle=bundle, store=tiny.store, target=target, **(usual | given))


def served(bundle: Path, tiny: Any, model: Any) -> LanguageModel:
    return load_served(
        bundle, tiny.store, model, numeric_form="nf4_dequantized", device=torch.device("cpu")
    )


def logits(model: Any, bundle: Path, name: str) -> torch.Tensor:
    ids = GoldenPrompts.read(bundle).models[name][0].prompt_ids
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return found


@pytest.mark.parametrize("model", ["adapter", "student"])
def test_safetensors_alone_give_the_models_logits(
    bundle: Path, tiny: Any, tmp_path: Path, model: Any
) -> None:
    target = tmp_path / "merged"
    found = export(asked(bundle, tiny, target, model=model, form=Format.safetensors))
    assert (found.to_form, found.agreeing) == (0, 1)
    loaded = AutoModelForCausalLM.from_pretrained(target)
    known = served(bundle, tiny, model)
    assert torch.equal(logits(loaded, bundle, model), logits(known.model, bundle, model))
    assert AutoTokenizer.from_pretrained(target)(TEXT) == known.tokenizer(TEXT)
    told = json.loads((verified(target) / "export.json").read_text())
    assert (told["model"], told["format"]) == (model, "safetensors")


@pytest.mark.parametrize("form", GGUF)
def test_a_gguf_file_holds_the_weights_rounded_to_its_form(
    bundle: Path, tiny: Any, tmp_path: Path, form: Format
) -> None:
    target = tmp_path / "written"
    found = export(asked(bundle, tiny, target, form=form))
    assert found.to_form <= {"f32": 1e-4, "f16": 5e-3}.get(form.partition("-")[2], 0.1)
    (path,) = verified(target).glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(target, gguf_file=path.name, dtype=torch.float32)
    known = served(bundle, tiny, "adapter")
    apart = (logits(loaded, bundle, "adapter") - logits(known.model, bundle, "adapter")).abs().max()
    spread = logits(known.model, bundle, "adapter").std()
    bounds = {"f32": 1e-5, "f16": 0.01, "q8_0": 0.2}
    assert float(apart / spread) <= bounds.get(form.partition("-")[2], 3.0)
    assert (apart > 0) == (form is not Format.gguf_f32)
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(path).tensors}
    wanted = GGMLQuantizationType[form.partition("-")[2].upper()]
    assert kinds["blk.1.ffn_down.weight"] == wanted
    assert kinds["blk.0.attn_norm.weight"] == GGMLQuantizationType.F32
    four_bits = wanted in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1)
    assert kinds["token_embd.weight"] == (GGMLQuantizationType.Q8_0 if four_bits else wanted)


def test_a_gguf_file_says_all_that_llama_cpp_asks_for(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    export(asked(bundle, tiny, tmp_path / "g"))
    (path,) = (tmp_path / "g").glob("*.gguf")
    fields = GGUFReader(path).fields
    known = served(bundle, tiny, "adapter")
    config, tokenizer = known.model.config, known.tokenizer
    expected = {
        "general.architecture": "llama",
        "general.name": "m-1",
        "general.base_model.0.name": "tiny-llama",
        "llama.block_count": 2,
        "llama.context_length": config.max_position_embeddings,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokenizer.chat_template,
    }
    assert {name: fields[name].contents() for name in expected} == expected
    assert len(fields["tokenizer.ggml.tokens"].data) == config.vocab_size
    assert fields["tokenizer.ggml.token_type"].contents()[tokenizer.eos_token_id] == 3


def test_reading_a_gguf_file_gives_the_folder_it_was_written_from(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    export(asked(bundle, tiny, tmp_path / "g", form=Format.gguf_q4_1, model="student"))
    (path,) = (tmp_path / "g").glob("*.gguf")
    unpack_gguf(path, tmp_path / "read")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "read")
    transformers = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    assert all(map(torch.equal, found.state_dict().values(), transformers.state_dict().values()))
    mine, theirs = found.config.to_dict(), transformers.config.to_dict()
    for config in (mine, theirs):
        for name in ("_name_or_path", "architectures", "quantization_config"):
            config.pop(name, None)
    assert mine == theirs
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "read")
    assert tokenizer(TEXT) == served(bundle, tiny, "student").tokenizer(TEXT)


def test_the_order_of_a_heads_rows_goes_there_and_back() -> None:
    weight = torch.arange(24.0).view(12, 2)
    paired = to_pairs(weight, 3)
    assert paired[:4, 0].tolist() == [0, 4, 2, 6]
    assert torch.equal(to_halves(paired, 3), weight)


def test_a_form_rounds_as_its_definition_says() -> None:
    from gguf import quantize

    row = np.zeros(32, dtype=np.float32)
    row[0], row[1] = -8.0, 3.4
    stored = quantize(row[None], GGMLQuantizationType.Q4_0)
    assert stored.shape == (1, 18)  # a float16 scale and 32 halves of a byte
    assert dequantize(stored, GGMLQuantizationType.Q4_0)[0, :3].tolist() == [-8.0, 3.0, 0.0]


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    bundle: Path, tiny: Any
) -> None:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = served(bundle, tiny, "adapter").tokenizer
    core = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    assert read_vocabulary(tokenizer, len(tokenizer)).way == "smollm"
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="cut by Whitespace in another way"):
        read_vocabulary(tokenizer, len(tokenizer))
    core.pre_tokenizer = plain
    core.normalizer = normalizers.NFC()  # which our own texts are in already
    assert read_vocabulary(tokenizer, len(tokenizer)).way == "gpt-2"
    core.normalizer = normalizers.Lowercase()
    with pytest.raises(ConfigError, match=r"BPE with a normalizer \(Lowercase\)"):
        read_vocabulary(tokenizer, len(tokenizer))


def test_rows_of_an_embedding_beyond_the_vocabulary_are_unused_tokens(
    bundle: Path, tiny: Any
) -> None:
    tokenizer = served(bundle, tiny, "adapter").tokenizer
    found = read_vocabulary(tokenizer, len(tokenizer) + 2)
    assert found.tokens[-1] == f"[PAD{len(tokenizer) + 1}]"
    assert found.kinds[-2:] == (5, 5)


def test_what_reads_back_as_another_model_is_not_kept(
    bundle: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.export import gguf_writing

    def doubled(name: str, weight: torch.Tensor, config: Any) -> torch.Tensor:
        return to_llama_cpp(name, weight * 2 if "o_proj" in name else weight, config)

    monkeypatch.setattr(gguf_writing, "to_llama_cpp", doubled)
    with pytest.raises(GateError, match=r"2 weights differ from the rounded ones: .*o_proj"):
        export(asked(bundle, tiny, tmp_path / "g"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_load_is_not_kept(
    bundle: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.export import gguf_writing

    monkeypatch.setattr(gguf_writing, "describe_shape", lambda writer, config: None)
    with pytest.raises(DataError, match=r"llama\.cpp does not load"):
        export(asked(bundle, tiny, tmp_path / "g"))
    assert list(tmp_path.iterdir()) == []


def test_a_chat_of_other_tokens_in_llama_cpp_is_refused(
    bundle: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.export import gguf_writing

    monkeypatch.setattr(gguf_writing, "_template", lambda template: template + "!")
    with pytest.raises(GateError, match="prompt 1 of 4 becomes"):
        export(asked(bundle, tiny, tmp_path / "g"))


def test_another_vocabulary_read_back_is_refused(
    bundle: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_back, "_core", lambda tokenizer: {"merges": [str(id(tokenizer))]})
    with pytest.raises(GateError, match="the tokenizer's merges are others"):
        export(asked(bundle, tiny, tmp_path / "g", form=Format.safetensors))


def test_a_folder_with_something_in_it_is_refused_and_an_empty_one_taken(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        export(asked(bundle, tiny, tmp_path / "full"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    export(asked(bundle, tiny, tmp_path / "empty"))
    assert verified(tmp_path / "empty")


def test_a_model_that_asks_otherwise_than_it_was_recorded_is_not_exported(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(bundle, changed)
    forge_prompt_ids(changed)
    with pytest.raises(ConfigError, match="golden prompt 1 of 4"):
        export(asked(changed, tiny, tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_a_bundle_with_a_changed_byte_is_not_exported(
    bundle: Path, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(bundle, changed)
    weights = changed / "student" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    options = ["--bundle", str(changed), "--store", str(tiny.store), "--model", "student"]
    options += ["--format", "safetensors", "--to", str(tmp_path / "to"), "--name", "m"]
    assert main(options) == 1
    assert "student/model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_what_quantisation_cost_is_told_for_every_form(
    bundle: Path, tiny: Any, scored: Any, tmp_path: Path
) -> None:
    records = Records(tiny.curated, scored.report, 5)
    export(asked(bundle, tiny, tmp_path / "g", measured=records))
    told = json.loads((verified(tmp_path / "g") / "quantization.json").read_text())
    rows = {row["form"].removesuffix(" (bitsandbytes)"): row for row in told["rows"]}
    beside = rows.pop("nf4 base, adapter beside it")
    measured = [form for form in GGUF if form is not Format.gguf_f32]
    assert list(rows) == ["float32", "int8", "nf4", *measured]
    assert told["records"] == 5
    exact = rows["float32"]
    assert exact["loss_difference"] == {"value": 0, "low": 0, "high": 0}
    # Rounding moves a loss, the coarser form more.
    moved = {form: abs(row["loss_difference"]["value"]) for form, row in rows.items()}
    assert 0 < moved["gguf-f16"] < moved["gguf-q8_0"] < moved["gguf-q4_0"]
    sizes = {form: row["bytes_on_disk"] for form, row in rows.items()}
    assert sizes["gguf-q4_0"] < sizes["gguf-q8_0"] < sizes["gguf-f16"] < sizes["float32"]
    assert exact["tokens_a_second"] > 0
    # What QLoRA trained is what is served, merged: the same numbers in other bytes.
    assert abs(beside["loss_difference"]["value"]) < 1e-4 < moved["nf4"]
    assert beside["token_f1_difference"]["value"] == 0
    assert sizes["nf4"] < beside["bytes_on_disk"] < sizes["float32"]
    assert all(row["tokens_a_second"] > 0 for row in told["rows"])
    # llama.cpp answers from what is all but the served numbers as the served model does.
    assert abs(rows["gguf-f16"]["token_f1_difference"]["value"]) < 0.05
    table = (tmp_path / "g" / "quantization.md").read_text()
    assert all(f"| {row['form']} |" in table for row in told["rows"])


def test_records_of_another_data_set_measure_nothing(
    tiny: Any, scored: Any, tmp_path: Path
) -> None:
    from tests.unit.conftest import write_curated

    write_curated(tmp_path / "curated", documents=1, records=12)
    path = tmp_path / "curated" / "test.jsonl"
    path.write_text(path.read_text().replace('"id":"r', '"id":"other'))
    shutil.rmtree(tmp_path / "sealed", ignore_errors=True)
    from tasks.stage.outputs import write_manifest

    write_manifest(tmp_path / "curated")
    with pytest.raises(DataError, match="none of the 8 records"):
        Records(tmp_path / "curated", scored.report, 5).read()


def test_a_gguf_file_of_another_architecture_or_with_other_weights_is_not_read(
    bundle: Path, tiny: Any, tmp_path: Path
) -> None:
    export(asked(bundle, tiny, tmp_path / "g"))
    (path,) = (tmp_path / "g").glob("*.gguf")
    content = path.read_bytes()
    other = tmp_path / "other.gguf"
    # Names of the same length, so that no offset moves.
    kind = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0"
    other.write_bytes(content.replace(kind + b"llama", kind + b"gemma"))
    with pytest.raises(ConfigError, match="a model of architecture 'gemma'"):
        unpack_gguf(other, tmp_path / "read")
    other.write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.9.ffn_up.weight"))
    with pytest.raises(ConfigError, match=r"2 layers differ in 2 weights, such as blk\.1\.ffn_up"):
        unpack_gguf(other, tmp_path / "read")


def test_the_bundles_adapter_is_peft_s_own_as_vllm_takes_it(bundle: Path, tiny: Any) -> None:
    """What vLLM's `--lora-modules` asks of a folder: LoRA of linear layers, nothing besides."""
    from peft import LoraConfig, PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(bundle / "adapter")
    assert isinstance(config, LoraConfig)
    assert (config.bias, config.use_dora, config.modules_to_save) == ("none", False, None)
    assert (bundle / "adapter" / "adapter_model.safetensors").is_file()
    base = served(bundle, tiny, "student").model  # any model of the base's shape
    adapted = PeftModel.from_pretrained(base, bundle / "adapter")
    assert set(config.target_modules) == {"q_proj", "v_proj"}
    assert adapted.peft_config["default"].r == 4
