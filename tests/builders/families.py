"""Look-alikes of public model families: their shapes, kinds of tokenizers and template features.

A few thousand weights each, random; tokenizers trained on the spot; templates written anew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.builders.family_templates import (
    CHATML,
    EXAONE,
    GEMMA2,
    GEMMA3,
    GRANITE,
    LLAMA2,
    LLAMA3,
    MISTRAL,
    OLMO,
    PHI3,
    PLAIN,
    PROMPTER,
    QWEN3,
    REASONER,
    SMOLLM3,
    SOLAR,
    ZEPHYR,
)
from tests.builders.family_tokenizers import (
    LLAMA3_SPLIT,
    QWEN2_SPLIT,
    byte_level,
    sentencepiece,
)


@dataclass(frozen=True)
class Family:
    """One family: how to make its tokenizer and its model, and what is known of its template.

    `end` is the token after an answer, `named_end` the tokenizer's own end-of-sequence token;
    `system` says how the template takes a system turn.
    """

    name: str
    core: Callable[[], Tokenizer]
    template: str
    shape: str
    config: Mapping[str, Any]
    end: str
    named_end: str
    begin: str | None = None
    pad: str | None = None
    unknown: str | None = None
    system: Literal["own", "refused"] = "own"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_clock(self) -> bool:
        return "strftime_now" in self.template

    def tokenizer(self) -> PreTrainedTokenizerFast:
        named = {
            "bos_token": self.begin,
            "eos_token": self.named_end,
            "pad_token": self.pad,
            "unk_token": self.unknown,
        }
        made = PreTrainedTokenizerFast(
            tokenizer_object=_made(self.core),
            **{name: token for name, token in named.items() if token is not None},
        )
        made.chat_template = self.template
        return made

    def write(self, folder: Path) -> Path:
        """Write the model and its tokenizer as its makers would publish them."""
        tokenizer = self.tokenizer()
        rows = -(-len(tokenizer) // 8) * 8
        config = AutoConfig.for_model(
            self.shape,
            **{
                "vocab_size": rows,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                **self.config,
            },
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


@cache
def _made(core: Callable[[], Tokenizer]) -> Tokenizer:
    return core()


_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
_GEMMA = _SMALL | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 1024}
_ENDING_LINE = AddedToken("<|end|>", special=True, normalized=False, rstrip=True)
_THINK = [AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")]
_IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _llama3() -> Tokenizer:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    return byte_level([*names, "<|eot_id|>"], split=LLAMA3_SPLIT, whole_words=True)


def _qwen() -> Tokenizer:
    return byte_level([*_IM, *_THINK], split=QWEN2_SPLIT, nfc=True)


def _gemma() -> Tokenizer:
    names = ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"]
    return sentencepiece(names, spaces="kept", runs=4)


def _phi3() -> Tokenizer:
    names = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"]
    rest = [AddedToken(name, special=True, normalized=False, rstrip=True) for name in names[1:]]
    ending = AddedToken("</s>", special=True, normalized=False, rstrip=True)
    return sentencepiece([names[0], *rest, _ENDING_LINE, ending], spaces="prepend")


def _exaone() -> Tokenizer:
    names = ["[BOS]", "[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]", "<pad>"]
    return byte_level(names, nfc=True)


def _reasoner() -> Tokenizer:
    return byte_level(["<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>", *_THINK])


_FAMILIES = (
    Family(
        "llama3", _llama3, LLAMA3, "llama", _SMALL, "<|eot_id|>", "<|end_of_text|>",
        begin="<|begin_of_text|>",
    ),
    Family(
        "qwen2", _qwen, CHATML, "qwen2", _SMALL | {"tie_word_embeddings": True}, "<|im_end|>",
        "<|im_end|>", pad="<|endoftext|>",
    ),
    Family(
        "qwen3", _qwen, QWEN3, "qwen3", _SMALL | {"head_dim": 8}, "<|im_end|>", "<|im_end|>",
        pad="<|endoftext|>", arguments={"enable_thinking": False},
    ),
    Family(
        "gemma2", _gemma, GEMMA2, "gemma2", _GEMMA, "<end_of_turn>", "<eos>", begin="<bos>",
        pad="<pad>", unknown="<unk>", system="refused",
    ),
    Family(
        "gemma3", _gemma, GEMMA3, "gemma3_text", _GEMMA, "<end_of_turn>", "<eos>", begin="<bos>",
        pad="<pad>", unknown="<unk>",
    ),
    Family(
        "phi3", _phi3, PHI3, "phi3", _SMALL, "<|end|>", "<|endoftext|>", begin="<s>",
        pad="<|endoftext|>", unknown="<unk>",
    ),
    Family(
        "mistral", lambda: sentencepiece(["[INST]", "[/INST]"], spaces="first"), MISTRAL, "mistral",
        _SMALL | {"sliding_window": None}, "</s>", "</s>", begin="<s>", unknown="<unk>",
    ),
    Family(
        "llama2", lambda: sentencepiece([], spaces="prepend"), LLAMA2, "llama", _SMALL, "</s>",
        "</s>", begin="<s>", unknown="<unk>",
    ),
    Family(
        "zephyr", lambda: sentencepiece([], spaces="first"), ZEPHYR, "llama", _SMALL, "</s>",
        "</s>", begin="<s>", unknown="<unk>",
    ),
    Family(
        "gpt2", lambda: byte_level(["<|endoftext|>"]), PLAIN, "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}, "<|endoftext|>",
        "<|endoftext|>", begin="<|endoftext|>",
    ),
    Family(
        "gpt_neox",
        lambda: byte_level(["<|endoftext|>", "<|prompter|>", "<|assistant|>", "<|system|>"]),
        PROMPTER, "gpt_neox", {name: _SMALL[name] for name in _SMALL if "key_value" not in name},
        "<|endoftext|>", "<|endoftext|>", pad="<|endoftext|>",
    ),
    Family(
        "mixtral", lambda: sentencepiece(["[INST]", "[/INST]"], spaces="first"), MISTRAL, "mixtral",
        _SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        "</s>", "</s>", begin="<s>", unknown="<unk>",
    ),
    Family(
        "qwen3_moe", _qwen, QWEN3, "qwen3_moe",
        _SMALL | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 32, "decoder_sparse_step": 1},
        "<|im_end|>", "<|im_end|>", pad="<|endoftext|>", arguments={"enable_thinking": False},
    ),
    Family(
        "solar", lambda: sentencepiece([], spaces="prepend"), SOLAR, "llama", _SMALL, "</s>",
        "</s>", begin="<s>", unknown="<unk>",
    ),
    Family(
        "exaone4", _exaone, EXAONE, "exaone4",
        _SMALL | {"head_dim": 8, "sliding_window": 512, "sliding_window_pattern": 2},
        "[|endofturn|]", "[|endofturn|]", begin="[BOS]", pad="<pad>",
    ),
    Family(
        "granite",
        lambda: byte_level(["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"]),
        GRANITE, "granite", _SMALL, "<|end_of_text|>", "<|end_of_text|>",
    ),
    Family(
        "olmo2", lambda: byte_level(["<|endoftext|>", "<|pad|>"], split=QWEN2_SPLIT), OLMO,
        "olmo2", _SMALL, "<|endoftext|>", "<|endoftext|>", begin="<|endoftext|>", pad="<|pad|>",
    ),
    Family(
        "smollm3", lambda: byte_level([*_IM, *_THINK], digits=True), SMOLLM3, "smollm3",
        _SMALL, "<|im_end|>", "<|im_end|>", arguments={"enable_thinking": False},
    ),
)  # fmt: skip
FAMILIES = {family.name: family for family in _FAMILIES}
OPENS_THINKING = Family(
    "reasoner", _reasoner, REASONER, "llama", _SMALL, "<|end|>", "<|end|>", begin="<|begin|>"
)
