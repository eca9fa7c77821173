"""A model of the default base's kind whose every byte is known: no training, no random numbers."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.models.loading import LanguageModel
from tests.builders.family_templates import CHATML

_MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ġ", "a")]
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def plain_llama() -> LanguageModel:
    """Return a Llama of two layers with SmolLM2's kind of tokenizer, its output tied."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, _MERGES)]
    core = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, _MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            places = torch.arange(weight.numel(), dtype=torch.int64) * 7919 + number
            weight.copy_(((places % 1009).float() / 1009 - 0.5).view(weight.shape))
    return LanguageModel(model, tokenizer, "")
