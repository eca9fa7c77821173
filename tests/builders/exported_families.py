"""Look-alikes of families that llama.cpp runs, with weights at which every rule of its shows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from tasks.models.loading import LanguageModel, load_model, load_tokenizer
from tasks.models.template_binding import bind_folder
from tasks.stage.params import TemplateParams
from tests.builders.families import FAMILIES, Family
from tests.builders.family_templates import GEMMA2, MISTRAL, PHI3
from tests.builders.family_tokenizers import byte_level
from tests.builders.known_templates import rendered_here

_LLAMA31 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": 256,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 4.0, 8.0],
}  # fmt: skip


def _linear(factor: float) -> dict[str, Any]:
    return {"rope_type": "linear", "rope_theta": 100.0, "factor": factor}


@dataclass(frozen=True)
class Exported:
    """A family, what its config has besides, and llama.cpp's names of it and of its tokenizer."""

    family: Family
    architecture: str
    cut: str = "default"
    changes: Mapping[str, Any] | None = None

    def write(self, folder: Path) -> LanguageModel:
        """Write the folder, its template bound as a night binds it, and return what it holds."""
        family = replace(self.family, config={**self.family.config, **(self.changes or {})})
        family.write(folder)
        with rendered_here():
            bind_folder(folder, _bound(family))
        model = load_model(folder, torch.device("cpu"))
        _fill(model)
        return LanguageModel(model, load_tokenizer(folder), "")


def _bound(family: Family) -> TemplateParams:
    return TemplateParams(arguments=dict(family.arguments), clock="2025-01-02", system="fold")


@torch.no_grad()
def _fill(model: torch.nn.Module) -> None:
    """Draw weights so large that each layer, norm, bias and rotation moves the logits."""
    drawn = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        numbers = torch.randn(weight.shape, generator=drawn)
        if name.endswith("norm.weight"):
            weight.add_(numbers * 0.3)
        elif name.endswith("bias"):
            weight.copy_(numbers * 0.5)
        else:
            weight.copy_(numbers * 1.5 * weight.shape[-1] ** -0.5)


def _phi4() -> Tokenizer:
    names = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    return byte_level(names, split=GGUF_PRE_TOKENIZER_SPLITS["gpt-4o"])


def _nemo() -> Tokenizer:
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    return byte_level(names, split=GGUF_PRE_TOKENIZER_SPLITS["tekken"], whole_words=True)


_PHI4 = Family(
    "phi4", _phi4, PHI3, "phi3",
    FAMILIES["phi3"].config | {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5,
        },
    },
    "<|end|>", "<|endoftext|>", begin="<|endoftext|>", pad="<|endoftext|>",
)  # fmt: skip
_NEMO = Family(
    "nemo", _nemo, MISTRAL, "mistral", FAMILIES["mistral"].config | {"head_dim": 16}, "</s>",
    "</s>", begin="<s>", unknown="<unk>",
)  # fmt: skip
_GEMMA = replace(
    FAMILIES["gemma2"], template=GEMMA2, shape="gemma",
    config={name: value for name, value in FAMILIES["gemma2"].config.items()
            if name not in ("query_pre_attn_scalar", "sliding_window")},
)  # fmt: skip
_WINDOW = {"sliding_window": 16}
_BY_LAYER = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": _linear(8.0),
}

EXPORTED: Mapping[str, Exported] = {
    "Llama 2": Exported(FAMILIES["llama2"], "llama"),
    "Llama 3": Exported(FAMILIES["llama3"], "llama", "llama-bpe"),
    "Llama 3.1": Exported(
        FAMILIES["llama3"], "llama", "llama-bpe", {"rope_parameters": _LLAMA31, "head_dim": 16}
    ),
    "Llama, linear": Exported(
        FAMILIES["llama2"], "llama", changes={"rope_parameters": _linear(2.0)}
    ),
    "Mistral": Exported(FAMILIES["mistral"], "llama"),
    "Mistral NeMo": Exported(_NEMO, "llama", "tekken"),
    "Qwen2": Exported(FAMILIES["qwen2"], "qwen2", "qwen2"),
    "Qwen2, YaRN": Exported(FAMILIES["qwen2"], "qwen2", "qwen2", {"rope_parameters": _YARN}),
    "Qwen3": Exported(FAMILIES["qwen3"], "qwen3", "qwen2"),
    "Gemma": Exported(_GEMMA, "gemma"),
    "Gemma 2": Exported(FAMILIES["gemma2"], "gemma2", changes=_WINDOW | {"num_hidden_layers": 4}),
    "Gemma 3": Exported(
        FAMILIES["gemma3"], "gemma3",
        changes=_WINDOW | {"num_hidden_layers": 7, "rope_parameters": _BY_LAYER},
    ),
    "Phi-3": Exported(FAMILIES["phi3"], "phi3"),
    "Phi-3, 128k": Exported(
        FAMILIES["phi3"], "phi3",
        changes={"rope_parameters": _LONGROPE, "max_position_embeddings": 4096,
                 "original_max_position_embeddings": 256},
    ),
    "Phi-4-mini": Exported(_PHI4, "phi3", "gpt-4o"),
}  # fmt: skip
