"""Which shares of a base are quantised and adapted, from its config and an adapter's."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.models.quantization import decoder_share, last_part, linear_weights

_ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Shares:
    """Shares of the decoder's numbers, all but the embedding and the vocabulary head."""

    quantised: float
    adapted: float


def read_shares(base: Path, adapter: Path, numeric_form: str) -> Shares:
    """Return the shares of a base's folder, given what was trained on it.

    A folder without an adapter's config is a model all of whose weights were trained.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    every = {last_part(name) for name, _ in linear_weights(model)}
    quantised = 0.0 if numeric_form == "float" else decoder_share(model, every)
    path = adapter / _ADAPTER_CONFIG
    adapted = decoder_share(model, _targets(path)) if path.is_file() else 1.0
    return Shares(quantised, adapted)


def _targets(path: Path) -> Collection[str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    parameters = content.get("target_parameters") or []
    return {*content["target_modules"], *map(last_part, parameters)}
