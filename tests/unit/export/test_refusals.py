"""What llama.cpp would compute or read otherwise is refused by what it has, and what is let through
is written as before."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tasks.export.families import FAMILIES, check_architecture, tensor_names, to_llama_cpp
from tasks.export.formats import Format
from tasks.export.gguf_writing import Description, write_gguf
from tasks.export.llama_cpp import LlamaCpp
from tasks.export.verification import _check_ids, read_back_gguf
from tasks.export.vocabulary import read_vocabulary
from tasks.models.loading import LanguageModel
from tasks.prompting.chat_encoding import Turn, encode_chats
from tasks.stage.errors import ConfigError, GateError
from tests.builders import families
from tests.builders.exported_families import EXPORTED
from tests.builders.family_tokenizers import byte_level, sentencepiece
from tests.builders.plain_llama import plain_llama

CHATS = [(Turn("user", ("What does json.dumps do? 123",)),)]


def write(path: Path, model: LanguageModel, name: str = "m-1") -> None:
    write_gguf(path, model, Format.gguf_f32, Description(name, "MIT", "made"))


def opened(path: Path) -> LlamaCpp:
    return LlamaCpp(path, context=256, rows=1, threads=1, exact=True)


def scaled(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, **values}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (AutoConfig.for_model("gpt2"), "the architecture gpt2"),
        (AutoConfig.for_model("qwen3_moe"), "the architecture qwen3_moe"),
        (LlamaConfig(attention_bias=True), "biases in attention"),
        (LlamaConfig(mlp_bias=True), "biases in its feed-forward layers"),
        (LlamaConfig(hidden_act="gelu"), "an activation other than silu"),
        (LlamaConfig(rope_parameters=scaled("dynamic")), "rotations of kind dynamic"),
        (
            Qwen2Config(rope_parameters=scaled("yarn", attention_factor=1.5,
                                               original_max_position_embeddings=64)),
            "rotations of kind yarn",
        ),
        (Gemma2Config(hidden_activation="silu"), "other than gelu_pytorch_tanh"),
        (Gemma2Config(query_pre_attn_scalar=128), "attention divided by the root of 128"),
        (Gemma2Config(final_logit_softcapping=None), "caps on logits"),
        (Gemma3TextConfig(use_bidirectional_attention=True), "attention to later tokens"),
        (
            Gemma3TextConfig(num_hidden_layers=2, layer_types=["full_attention"] * 2),
            "windows in other layers than all but every 6th",
        ),
        (
            Gemma2Config(num_hidden_layers=2, layer_types=["full_attention"] * 2),
            "windows in other layers than all but every 2th",
        ),
        (
            Phi3Config(hidden_size=64, num_attention_heads=4, head_dim=32),
            "heads that are not as wide together as the model",
        ),
    ],
)  # fmt: skip
def test_a_model_that_llama_cpp_computes_otherwise_is_refused_by_what_it_has(
    config: Any, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        check_architecture(config)


def test_the_sizes_that_are_scaled_by_the_model_s_width_are_those_of_27b() -> None:
    shape = {"hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128}
    check_architecture(
        Gemma2Config(num_hidden_layers=46, query_pre_attn_scalar=144, **shape)  # type: ignore[arg-type]
    )
    with pytest.raises(ConfigError, match="divided by the root of 144"):
        check_architecture(
            Gemma2Config(num_hidden_layers=42, query_pre_attn_scalar=144, **shape)  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("name", "changes", "context"),
    [
        ("Mistral", {"sliding_window": 64}, 64),  # llama.cpp's `llama` has no windows
        ("Phi-3", {"sliding_window": 64}, 64),
        ("Gemma 2", {"sliding_window": 64, "layer_types": ["sliding_attention"] * 4}, 64),
        ("Gemma 2", {}, 1024),
        ("Phi-3, 128k", {}, 256),  # where the second set of factors begins
    ],
)
def test_a_file_names_the_context_over_which_both_compute_the_same(
    name: str, changes: dict[str, Any], context: int, tmp_path: Path
) -> None:
    exported = EXPORTED[name]
    changed = replace(exported, changes={**(exported.changes or {}), **changes})
    write(tmp_path / "m.gguf", changed.write(tmp_path / "model"))
    found = GGUFReader(tmp_path / "m.gguf").fields[f"{exported.architecture}.context_length"]
    assert found.contents() == context


def test_a_weight_without_a_place_is_refused() -> None:
    model = plain_llama().model
    model.model.layers[1].register_buffer("gate", torch.ones(1))
    with pytest.raises(ConfigError, match=r"1 weights .* such as model\.layers\.1\.gate"):
        tensor_names(model)


def test_a_llama_of_the_default_base_s_kind_is_written_byte_by_byte_as_before(
    tmp_path: Path,
) -> None:
    """The digests are those of the exporter that knew Llama alone."""
    known = {
        "f16": "cf46a9bcac19376edc897054b80172e40315e5167066959a312a190079c8fd3b",
        "q8_0": "7f3377f5a218150cf0c9fac430c7912848153e77a243aa570ba273b8670d54b9",
        "q4_1": "bedbe82c0125cc50c55f4da3991c4526755c1da18f4d036af5e6bb4a327552b0",
        "q4_0": "ebe57a3260e78a345847b4e2647bff49bed7a78d220edb8694e036ff6847eda3",
    }
    found, described = {}, Description("nightloom-3", "Apache-2.0", "plain-llama")
    for form in known:
        write_gguf(tmp_path / "m.gguf", plain_llama(), Format(f"gguf-{form}"), described)
        found[form] = hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest()
    assert found == known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama 2", "Gemma", "Gemma 3"])
def test_a_rule_of_llama_cpp_s_left_out_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of rotated rows of a Llama, and the 1 in a Gemma's norms."""
    from tasks.export import families as writing

    family = replace(FAMILIES[EXPORTED[name].family.shape], pairs=False, shift=0.0)
    monkeypatch.setattr(writing, "FAMILIES", {EXPORTED[name].family.shape: family})
    model = EXPORTED[name].write(tmp_path / "model")
    write(tmp_path / "m.gguf", model)
    prompts = encode_chats(model.tokenizer, CHATS)
    with pytest.raises(GateError, match="logits are off by"):
        read_back_gguf(tmp_path / "m.gguf", model, Format.gguf_f32, prompts, CHATS)


def tokenizer(core: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    made.chat_template = families.CHATML
    return made


def stripping(names: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False, rstrip=True) for name in names]


def without_a_split() -> Tokenizer:
    core = json.loads(sentencepiece([], spaces="prepend").to_str())
    merges = core["model"]["merges"]
    whole = next("".join(pair) for pair in merges if len("".join(pair)) > 2)
    kept = [pair for pair in merges if "".join(pair) != whole]
    core["model"]["merges"] = [*kept, next(pair for pair in merges if "".join(pair) == whole)]
    return Tokenizer.from_str(json.dumps(core))


@pytest.mark.parametrize(
    ("core", "named"),
    [
        (byte_level(["<|end|>"], split=r"\w+|\W+"), "cut by Split, ByteLevel in another way"),
        (sentencepiece(["<|end|>", *stripping(["<|user|>"])], spaces="prepend"),
         "other special tokens than Phi-3's take white space"),
        (without_a_split(), "merges are not SentencePiece's, as of"),
        (sentencepiece(["<|end|>"], spaces="first"), "no token of its own begins a chat"),
        (sentencepiece([AddedToken("<m>", lstrip=True)], spaces="kept"),
         "special tokens take what is before them"),
    ],
)  # fmt: skip
def test_a_tokenizer_of_other_rules_is_refused_by_them(core: Tokenizer, named: str) -> None:
    made = tokenizer(core, eos_token="</s>", bos_token="<s>")
    made.chat_template = families.ZEPHYR
    with pytest.raises(ConfigError, match=named):
        read_vocabulary(made, len(made))


def test_a_token_begins_every_text_in_llama_cpp_only_where_chats_begin_with_it() -> None:
    """Our chats have no such token unless the template writes it, and llama.cpp's are ours."""
    from tokenizers.processors import TemplateProcessing

    core = byte_level(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    core.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    made = tokenizer(core, bos_token="<s>", eos_token="<|im_end|>")
    assert made("a").input_ids[0] == made.bos_token_id
    assert not read_vocabulary(made, len(made)).adds_bos
    made.chat_template = "{{ bos_token }}" + families.CHATML
    assert read_vocabulary(made, len(made)).adds_bos


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Phi-3", "Mistral", "Qwen2"])
@pytest.mark.parametrize("called", ["m-1", "phi-3-helper", "My-Phi3"])
def test_what_a_model_is_called_changes_no_token_of_it(
    name: str, called: str, tmp_path: Path
) -> None:
    """llama.cpp tells by the name whether special tokens take the white space after them."""
    model = EXPORTED[name].write(tmp_path / "model")
    write(tmp_path / "m.gguf", model, called)
    asked = opened(tmp_path / "m.gguf")
    [prompt] = encode_chats(model.tokenizer, CHATS)
    messages = [{"role": turn.role, "content": "".join(turn.texts)} for turn in CHATS[0]]
    assert asked.tokens(asked.rendered(messages)) == prompt


def test_values_that_llama_cpp_gives_a_template_unasked_are_undefined_again(
    tmp_path: Path,
) -> None:
    """Today's date, and that the model is to think."""
    model = plain_llama()
    written = (
        "{{ '<|im_start|>' + (date_string if date_string is defined else 'no date') }}"
        "{{ 'thinks' if enable_thinking is defined and enable_thinking else 'no thought' }}"
    )
    model.tokenizer.chat_template = written + families.CHATML
    write(tmp_path / "m.gguf", model)
    asked = opened(tmp_path / "m.gguf").rendered([{"role": "user", "content": "x"}])
    assert asked.startswith("<|im_start|>no dateno thought")
    kept = str(GGUFReader(tmp_path / "m.gguf").fields["tokenizer.chat_template"].contents())
    assert kept.endswith(written + families.CHATML)


def test_one_more_token_of_the_generation_settings_ends_an_answer(tmp_path: Path) -> None:
    model: Any = plain_llama()
    words = model.tokenizer.convert_tokens_to_ids(["Ġthe", "in"])
    model.model.generation_config.eos_token_id = [model.tokenizer.eos_token_id, words[0]]
    write(tmp_path / "m.gguf", model)
    asked = opened(tmp_path / "m.gguf")
    assert asked.ends_at(words[0])
    assert not asked.ends_at(words[1])
    model.model.generation_config.eos_token_id = words
    with pytest.raises(ConfigError, match=r"llama\.cpp can be told of one"):
        write(tmp_path / "m.gguf", model)


def test_rows_that_a_form_can_t_cut_are_named_in_a_gemma_too(tmp_path: Path) -> None:
    exported = EXPORTED["Gemma"]
    model = replace(exported, changes={"intermediate_size": 40}).write(tmp_path / "model")
    described = Description("m-1", "MIT", "made")
    with pytest.raises(ConfigError, match=r"mlp\.down_proj\.weight hold 40 weights"):
        write_gguf(tmp_path / "m.gguf", model, Format.gguf_q8_0, described)
    write_gguf(tmp_path / "m.gguf", model, Format.gguf_f16, described)


def test_a_mistral_is_a_llama_and_a_norm_of_gemma_s_holds_its_one() -> None:
    assert FAMILIES["mistral"] is FAMILIES["llama"]
    check_architecture(MistralConfig())
    norm = torch.tensor([-0.5, 0.0])
    stored = to_llama_cpp("model.norm.weight", norm, AutoConfig.for_model("gemma"))
    assert stored.tolist() == [0.5, 1.0]


def test_chats_of_which_none_can_be_compared_are_no_proof() -> None:
    tokenizer: Any = SimpleNamespace(added_tokens_decoder={3: AddedToken("<end>", special=True)})
    chats = [[Turn("user", ("What is <end>?",))]]
    with pytest.raises(GateError, match="none can be compared"):
        _check_ids(Path("model.gguf"), cast(Any, None), tokenizer, [[1, 2]], chats)
