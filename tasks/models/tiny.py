"""A two-layer model made on the spot, for nights that only try the plumbing."""

import argparse
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.stage.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 2048
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny(architecture: str, target: Path) -> None:
    """Write a two-layer causal model with random weights (seed 0) and a tokenizer of its own.

    Raises:
        ConfigError: the architecture is not `llama`.
    """
    if architecture != "llama":
        raise ConfigError(
            f"tiny:{architecture} is not known; there is tiny:llama", "write tiny:llama"
        )
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _tokenizer() -> "PreTrainedTokenizerFast":
    """Return a byte-level BPE trained on a few of the standard library's own docstrings."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=special[1],
        eos_token=special[2],
        pad_token=special[2],
        unk_token=special[0],
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _corpus() -> list[str]:
    """Return text with the words that questions about Python hold."""
    modules = (inspect, json, re, Path, argparse)
    texts = [inspect.getdoc(value) or "" for item in modules for value in vars(item).values()]
    return sorted({text for text in texts if len(text) > 40})
