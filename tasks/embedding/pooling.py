"""How the vectors of a text's tokens become one, and by what an embedder's files say it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tasks.stage.errors import ConfigError
from tasks.stage.params import Pooling

if TYPE_CHECKING:
    from torch import Tensor

MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
_POOLING_FILE = "1_Pooling/config.json"
_PLAIN_MODULES = {"Transformer", "Pooling", "Normalize"}
_OLD_NAMES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}
_KNOWN = ("mean", "cls", "lasttoken")


def plain_pooling(folder: Path, given: Pooling | None) -> Pooling | None:
    """Return by which rule alone a vector is made of its tokens' vectors, None where there is more
    to it, or another rule.

    `given` is what params say: it counts where the files say nothing, and without it the mean does.

    Raises:
        ConfigError: params and files say different things.
    """
    found = named_pooling(folder)
    if given is not None and found not in (None, given):
        raise ConfigError(
            f"params name the pooling {given}, and the embedder in {folder} was saved with "
            f"{found}; other vectors than its authors' would be searched",
            "leave models.embedder.pooling at null, or mend the embedder's 1_Pooling/config.json",
        )
    chosen = found or given or "mean"
    if chosen not in _KNOWN or not _is_plain(folder):
        return None
    return cast(Pooling, chosen)


def named_pooling(folder: Path) -> str | None:
    """Return the pooling that an embedder's files name, several joined; None where none does."""
    path = folder / _POOLING_FILE
    if not path.exists():
        return "other" if (folder / MODULES_FILE).exists() and not _is_plain(folder) else None
    content = json.loads(path.read_text(encoding="utf-8"))
    mode = content.get("pooling_mode")
    if mode is None:
        chosen = [name for name, value in content.items() if "pooling_mode_" in name and value]
        mode = [_OLD_NAMES.get(name, name) for name in chosen]
    return mode if isinstance(mode, str) else " and ".join(mode) or "mean"


def _is_plain(folder: Path) -> bool:
    """Return whether nothing but the pooling stands between a text and its vector."""
    modules = folder / MODULES_FILE
    if modules.exists():
        kinds = {one["type"].rpartition(".")[2] for one in _read(modules)}
        if "Transformer" not in kinds or kinds - _PLAIN_MODULES:
            return False
    length, pooling = folder / LENGTH_FILE, folder / _POOLING_FILE
    if length.exists() and _read(length).get("do_lower_case"):
        return False
    return not pooling.exists() or _read(pooling).get("include_prompt", True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def pool(hidden: "Tensor", mask: "Tensor", pooling: Pooling) -> "Tensor":
    """Return the vector of each text, (texts, width), from those of its tokens.

    `hidden` is (texts, tokens, width) and `mask` (texts, tokens), 1 where a token is none of the
    padding, which may stand on either side.
    """
    import torch

    if pooling == "mean":
        weights = mask[..., None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    places = mask.int().argmax(1)
    if pooling == "lasttoken":
        places = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), places]
